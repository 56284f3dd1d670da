"""The plain way's files: `torch.onnx.export`, then onnxruntime's own `quantize_static`."""

import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from safetensors.torch import load_file
from torch import nn

from benchmarks.commands import once
from benchmarks.phone.folds import Images, read_parts
from benchmarks.phone.network import Normalized, lite
from benchmarks.provenance import Row

OPSET = 18
CALIBRATION_IMAGES = 256


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Gives images one by one, as `quantize_static` asks for them."""

    def __init__(self, images: Images) -> None:
        self._feeds = iter([{"image": image[None].astype(np.float32) / 255} for image in images])

    def get_next(self) -> dict[str, Any] | None:
        """The next image, ``(1, C, H, W)`` in 0..1."""
        return next(self._feeds, None)


def exported(table: Path, network: str, size: int, seed: int, folder: Path) -> Row:
    """``fp32.onnx`` and ``int8.onnx`` of the trained network in `folder`, once; the seconds of each in CPU time."""

    def make() -> Row:
        train = read_parts(table, size, ("train",))["train"]
        started = time.process_time()
        model = Normalized(lite(network, int(train.labels.max()) + 1, size))
        model.load_state_dict(load_file(folder / "weights.safetensors"))
        write_onnx(model, size, folder / "fp32.onnx")
        written = time.process_time()
        chosen = np.random.default_rng(seed).permutation(len(train.labels))[:CALIBRATION_IMAGES]
        quantize(folder / "fp32.onnx", train.images[chosen], folder / "int8.onnx")
        seconds = {"export_cpu_s": written - started, "quantize_cpu_s": time.process_time() - written}
        return {"size": size, "calibration_images": len(chosen), **seconds}

    return once(folder / "exported.json", make)


def write_onnx(network: nn.Module, size: int, path: Path) -> None:
    """The network with normalisation inside: pixels in 0..1 to logits, any number of images."""
    names = {"input_names": ["image"], "output_names": ["logits"]}
    shapes = {"pixels": {0: torch.export.Dim("batch")}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = (torch.rand(2, 3, size, size),)
        program = torch.onnx.export(
            network.eval(), images, opset_version=OPSET, dynamo=True, dynamic_shapes=shapes, verbose=False, **names
        )
    program.save(path, external_data=False)


def quantize(fp32: Path, images: Images, int8: Path) -> None:
    """Static quantisation as onnxruntime's documentation has it: QDQ, weights in int8 per channel, activations uint8.

    Weights have 7 bits (``reduce_range``): where a processor has AVX2 and no VNNI, as the one that measured has, two
    products of 8 bits overflow 16 in onnxruntime, and accuracy is lost.
    """
    with tempfile.TemporaryDirectory() as name:
        prepared = Path(name) / "prepared.onnx"
        quant_pre_process(str(fp32), str(prepared))
        quantization.quantize_static(
            str(prepared),
            str(int8),
            Reader(images),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
        )
