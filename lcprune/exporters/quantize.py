"""Stages of a network in fewer bits: int8 throughout, float16, or int8 weights alone. Needs no torch.

A quantiser never enters the branches of a progressive model, and says nothing about it. So every stage is quantised
by itself, calibrated on what the stage before it hands over, and only then are the stages stitched. Between int8 stages
the hidden layer stays uint8, its channels last: a stage begins with the scale that the one before it ends with. The
first one begins with the 256 levels that the pixels of a picture have; its normalisation is in the weights.
"""

import contextlib
import copy
import io
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnxruntime import quantization as tool
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer

from lcprune.errors import ExportError
from lcprune.exporters import rewrite
from lcprune.exporters.graphs import subgraphs
from lcprune.exporters.session import Floats, open_session, to_float
from lcprune.exporters.verify import stage_logits
from lcprune.specs import Int8Range

Stages = Sequence[ModelProto]
Reduction = Literal["int8", "fp16", "w8"]
"""``w8``: weights of 8 bits in the file, float32 in memory and in every computation."""

CALIBRATORS: dict[str, tuple[Any, dict[str, float]]] = {
    "min-max": (tool.CalibrationMethod.MinMax, {}),
    "percentile 99.99": (tool.CalibrationMethod.Percentile, {"percentile": 99.99}),
    # With onnxruntime's own 128 bins there is but one range to choose from: all of it.
    "entropy": (tool.CalibrationMethod.Entropy, {"num_bins": 256, "num_quantized_bins": 128}),
}
LARGEST_WEIGHT: dict[Int8Range, int] = {"safe": 64, "full": 127}
"""Largest integer that stands for a weight."""
QUANTIZED_OPS = (
    *("Conv", "Gemm", "MatMul", "Add", "Concat", "Relu", "Clip"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Transpose"),
)
_OPTIONS = {"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]}  # logits of 256 levels would tie
_FLOAT_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose")  # in any domain of onnxruntime's
_OPEN = "import sys, onnxruntime as o; o.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
_CHUNK = 64  # images that the calibrator sees together: it keeps all their activations
_FP16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Quantization:
    """What was done to the numbers of a file: ``lcprune.quantization`` in its metadata, as JSON."""

    precision: Reduction
    method: str | None = None
    """How the ranges of activations were found; None where they stay floating."""
    samples: int = 0
    """Training images that the ranges were found on."""
    int8_convolutions: int = 0
    """Convolutions that onnxruntime computes in integers: all of the file's, average pools among them, or none."""
    int8_range: Int8Range | None = None
    agreement_pct: dict[str, float] | None = None
    """For each method that was tried, rows with the class that float32 gives, over all exits."""

    def as_json(self) -> dict[str, Any]:
        """As in the metadata."""
        return asdict(self)


@dataclass(frozen=True)
class Reduced:
    """Stages in fewer bits."""

    stages: tuple[ModelProto, ...]
    quantization: Quantization


def reduce(
    stages: Stages,
    precision: Reduction,
    calibration: NDArray[np.generic],
    held_out: NDArray[np.generic],
    int8_range: Int8Range = "safe",
) -> Reduced:
    """`stages` in another precision; inputs and outputs of the first and the last stay float32.

    Args:
        stages: As `stages.export_stages` makes them; left as they are.
        precision: See `Reduction`.
        calibration: Training images for the ranges of int8 activations, ``(N, C, H, W)``.
        held_out: Images on which the calibrator is chosen that changes fewest classes, and whose numbers have to fit
            into fp16.
        int8_range: Of int8 weights.

    Raises:
        ExportError: If a convolution is not computed in integers though int8 was asked for, or `held_out` makes
            numbers that are too large for fp16.
        ValueError: If int8 is asked for without images.
    """
    if precision == "int8":
        return _to_int8(stages, calibration, held_out, int8_range)
    if precision == "fp16":
        _refuse_overflow(stages, held_out[:_CHUNK])
    convert = _to_fp16 if precision == "fp16" else _to_w8
    return Reduced(tuple(convert(stage) for stage in stages), Quantization(precision))


def int8_convolutions(content: bytes) -> int:
    """How many convolutions onnxruntime computes in integers, once it has optimised a model.

    Raises:
        ExportError: If there is a convolution that it does not; all of them are named.
    """
    nodes = [node for graph in subgraphs(_optimized(content).graph) for node in graph.node]
    if floating := [node.name or node.output[0] for node in nodes if node.op_type in _FLOAT_CONVOLUTIONS]:
        raise ExportError(
            f"{len(floating)} convolutions would not be int8: {', '.join(floating)}",
            "export with --precision fp32 or w8, and report this, with the recipe",
        )
    return sum(node.op_type == "QLinearConv" for node in nodes)


def check_int8(content: bytes, expected: int) -> None:
    """Refuses a model that has other than `expected` int8 convolutions.

    Raises:
        ExportError: If one is floating or absent, or onnxruntime dies of the model.
    """
    _refuse_what_kills_onnxruntime(content)
    if (count := int8_convolutions(content)) != expected:
        raise ExportError(
            f"{count} of {expected} convolutions are int8 in the graph that onnxruntime runs",
            "export with --precision fp32 or w8, and report this, with the recipe",
        )


def _refuse_what_kills_onnxruntime(content: bytes) -> None:
    """Opens a model in a process of its own: onnxruntime aborts on some integer graphs with branches."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        child = subprocess.run([sys.executable, "-c", _OPEN, str(path)], capture_output=True, check=False)
    if child.returncode < 0:
        raise ExportError(
            f"onnxruntime {onnxruntime.__version__} dies of this graph in int8 (signal {-child.returncode})",
            "export with --precision fp32, fp16 or w8, or a sub-model alone: --exit K without --progressive",
        )


def _to_int8(
    stages: Stages, calibration: NDArray[np.generic], held_out: NDArray[np.generic], int8_range: Int8Range
) -> Reduced:
    if not len(calibration) or not len(held_out):
        raise ValueError("int8 needs images to calibrate on, and others to choose the calibrator")
    expected = stage_logits(stages, held_out)
    stages = [copy.deepcopy(stage) for stage in stages]
    for stage in stages:
        rewrite.pools_as_convolutions(stage)
        rewrite.flatten_channels_last(stage)
    levels = rewrite.fold_normalization(stages[0], LARGEST_WEIGHT[int8_range])
    tried = {method: _quantize_stages(stages, calibration, method, levels, int8_range) for method in CALIBRATORS}
    logits = {method: stage_logits(quantized, held_out) for method, quantized in tried.items()}
    agreement_pct = {
        method: 100 * float((of_method.argmax(axis=2) == expected.argmax(axis=2)).mean())
        for method, of_method in logits.items()
    }
    gaps = {method: float(np.abs(of_method - expected).mean()) for method, of_method in logits.items()}
    best = min(CALIBRATORS, key=lambda method: (-agreement_pct[method], gaps[method]))
    convolutions = sum(node.op_type == "Conv" for stage in stages for node in stage.graph.node)
    counted = sum(int8_convolutions(stage.SerializeToString()) for stage in tried[best])
    if counted != convolutions:
        raise ExportError(
            f"{counted} of {convolutions} convolutions are int8", "export with --precision fp32 or w8, and report this"
        )
    return Reduced(tuple(tried[best]), Quantization("int8", best, len(calibration), counted, int8_range, agreement_pct))


def _quantize_stages(
    stages: Stages, images: NDArray[np.generic], method: str, levels: bool, int8_range: Int8Range
) -> list[ModelProto]:
    """All stages, each calibrated on what the quantised one before it hands over.

    Args:
        stages: Rewritten for integers.
        images: ``(N, C, H, W)``.
        method: A key of `CALIBRATORS`.
        levels: Whether the first stage reads pixels and ones; see `rewrite.fold_normalization`.
        int8_range: Of the weights.
    """
    quantized: list[ModelProto] = []
    hidden: NDArray[Any] = to_float(images)
    taken: _Integers | None = None
    if levels:
        taken, hidden = _LEVELS, np.round(rewrite.with_ones(hidden) * 255).clip(0, 255).astype(np.uint8)
    for stage in stages:
        ranges = _ranges(stage, hidden if taken is None else taken.to_float(hidden), method)
        model = _quantize_stage(stage, ranges, taken, int8_range)
        if taken is not None:
            _take_integers(model.graph, taken)
        taken = _hand_over_integers(model.graph)
        hidden = _first_output(model, hidden)
        quantized.append(model)
    if levels:
        _take_pixels(quantized[0].graph, images.shape[1])
    return quantized


def _first_output(stage: ModelProto, images: NDArray[Any]) -> NDArray[Any]:
    """What a stage hands over; of the last one its logits."""
    session = open_session(stage.SerializeToString(), "a stage")
    chunks = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
    return np.concatenate([session.run(None, {"image": chunk})[0] for chunk in chunks])


@dataclass(frozen=True)
class _Integers:
    """How integers stand for the values of a tensor ``(N, C, H, W)``."""

    scale: NDArray[np.float32]
    zero_point: NDArray[np.uint8]
    channels_last: bool

    def to_float(self, integers: NDArray[np.uint8]) -> Floats:
        values = (integers.astype(np.float32) - np.float32(self.zero_point)) * self.scale
        return values.transpose(rewrite.CHANNELS_FIRST) if self.channels_last else values

    def override(self) -> dict[str, Any]:
        """For the quantiser."""
        return {"scale": self.scale, "zero_point": self.zero_point, "quant_type": tool.QuantType.QUInt8}


_LEVELS = _Integers(np.array(1 / 255, np.float32), np.array(0, np.uint8), channels_last=False)
"""Pixels in 0..1 as the bytes that they were read from."""


def _ranges(stage: ModelProto, images: NDArray[np.generic], method: str) -> Any:
    """Smallest and largest value of every activation, as the quantiser wants them."""
    kind, options = CALIBRATORS[method]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "stage.onnx"
        onnx.save(stage, path)
        calibrator = tool.create_calibrator(
            path, list(QUANTIZED_OPS), f"{folder}/augmented.onnx", calibrate_method=kind, extra_options=options
        )
        for start in range(0, len(images), _CHUNK):
            calibrator.collect_data(_Batch(to_float(images[start : start + _CHUNK])))
        return calibrator.compute_data()


class _Batch:
    """One batch, in the form that a calibrator reads."""

    def __init__(self, images: Floats) -> None:
        self._rest = [{"image": images}]

    def get_next(self) -> dict[str, Floats] | None:
        return self._rest.pop() if self._rest else None


def _quantize_stage(stage: ModelProto, ranges: Any, taken: _Integers | None, int8_range: Int8Range) -> ModelProto:
    """QDQ: uint8 activations and int8 weights per channel, which is what the kernels for CPUs are made for."""
    options = dict(_OPTIONS) if taken is None else {**_OPTIONS, "TensorQuantOverrides": {"image": [taken.override()]}}
    quantizer = tool.QDQQuantizer(
        save_and_reload_model_with_shape_infer(stage),
        per_channel=True,
        reduce_range=int8_range == "safe",
        weight_qType=tool.QuantType.QInt8,
        activation_qType=tool.QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=list(QUANTIZED_OPS),
        extra_options=options,
    )
    quantizer.quantize_model()
    return _like(quantizer.model.model, stage)


def _hand_over_integers(graph: GraphProto) -> _Integers | None:
    """Makes the output ``hidden`` the integers that it was made from; None where it was not made from any.

    Images go ``(N, H, W, C)``: so the kernels want them, and a branch begins without a transpose.
    """
    last = next((n for n in graph.node if n.output[0] == "hidden" and n.op_type == "DequantizeLinear"), None)
    if last is None:
        return None
    integers = last.input[0]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    image_like = len(graph.output[0].type.tensor_type.shape.dim) == 4
    taken = _Integers(constants[last.input[1]], constants[last.input[2]], image_like)
    _rename(graph, "hidden", "hidden.float")
    if image_like:
        _permute(graph.output[0])
        graph.node.append(helper.make_node("Transpose", [integers], ["hidden"], "hidden", perm=rewrite.CHANNELS_LAST))
    else:
        _rename(graph, integers, "hidden")
    if not any("hidden.float" in node.input for node in graph.node):
        graph.node.remove(last)
    graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    return taken


def _take_integers(graph: GraphProto, taken: _Integers) -> None:
    """Makes the input ``image`` the integers that `_hand_over_integers` gives."""
    for node in [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "image"]:
        graph.node.remove(node)
        _rename(graph, node.output[0], "image.integers")
    _rename(graph, "image", "image.float")
    _rename(graph, "image.integers", "image")
    if any("image.float" in node.input for node in graph.node):
        names = ["image.scale", "image.zero_point"]
        dequantize = helper.make_node("DequantizeLinear", ["image", *names], ["image.float"], name="image.float")
        graph.node.insert(0, dequantize)
        for name, value in zip(names, (taken.scale, taken.zero_point), strict=True):
            graph.initializer.append(numpy_helper.from_array(value, name))
    if taken.channels_last:
        _rename(graph, "image", "image.first")
        first = helper.make_node("Transpose", ["image"], ["image.first"], "image.first", perm=rewrite.CHANNELS_FIRST)
        graph.node.insert(0, first)
        _permute(graph.input[0])
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def _take_pixels(graph: GraphProto, channels: int) -> None:
    """Makes the input ``image`` pixels in 0..1 without ones, of a graph that takes both as integers."""
    _rename(graph, "image", "image.ones")
    pads = np.zeros(8, np.int64)
    pads[5] = rewrite.padded_channels(channels) - channels  # behind the channels
    constants = {"pads": pads, "one": np.array(255, np.uint8), "step": _LEVELS.scale, "black": _LEVELS.zero_point}
    names = {name: f"image.{name}" for name in constants}
    quantize = helper.make_node("QuantizeLinear", ["image", names["step"], names["black"]], ["image.bytes"])
    pad = helper.make_node("Pad", ["image.bytes", names["pads"], names["one"]], ["image.ones"])
    for position, node in enumerate((quantize, pad)):
        node.name = node.output[0]
        graph.node.insert(position, node)
    graph.initializer.extend(numpy_helper.from_array(value, names[name]) for name, value in constants.items())
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = channels


def _permute(value: ValueInfoProto) -> None:
    """Writes the shape of an input or output with its channels last."""
    shape = value.type.tensor_type.shape
    dims = [copy.deepcopy(shape.dim[axis]) for axis in rewrite.CHANNELS_LAST]
    del shape.dim[:]
    shape.dim.extend(dims)


def _rename(graph: GraphProto, old: str, new: str) -> None:
    """Renames a tensor inside a graph; inputs and outputs of the graph keep their names."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _refuse_overflow(stages: Stages, images: NDArray[np.generic]) -> None:
    """Looks at every number of the float32 stages: a CPU computes fp16 in float32, and would not show the overflow."""
    hidden: NDArray[Any] = to_float(images)
    for stage in stages:
        watched = copy.deepcopy(stage)
        known = {output.name for output in stage.graph.output}
        inside = {name for node in stage.graph.node for name in node.output} - known - {""}
        watched.graph.output.extend(ValueInfoProto(name=name) for name in sorted(inside))
        results = open_session(watched.SerializeToString(), "a stage").run(None, {"image": hidden})
        numbers = [result for result in results if result.dtype == np.float32 and result.size]
        largest = max((float(np.abs(result).max()) for result in numbers), default=0.0)
        if not largest <= _FP16_MAX:
            raise ExportError(
                f"fp16 ends at {_FP16_MAX:,.0f}, and numbers inside this network reach {largest:,.0f}",
                "export with --precision fp32 or w8",
            )
        hidden = results[0]


def _to_fp16(stage: ModelProto) -> ModelProto:
    """Weights and arithmetic in float16 between a cast of the input and casts of the outputs."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return _like(convert_float_to_float16(copy.deepcopy(stage), keep_io_types=True), stage)


def _to_w8(stage: ModelProto) -> ModelProto:
    """Weights of convolutions and linear layers as int8 with a scale per output channel.

    Cast and Mul, which any runtime folds into a constant when it loads the file. A DequantizeLinear it would keep, and
    compute for every image.
    """
    model = copy.deepcopy(stage)
    graph = model.graph
    weights = {node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm")}
    for tensor in [tensor for tensor in graph.initializer if tensor.name in weights]:
        values = numpy_helper.to_array(tensor)
        axes = tuple(range(1, values.ndim))  # the exporter writes Gemm with transB=1: outputs first, as in Conv
        scale = np.maximum(np.abs(values).max(axis=axes, keepdims=True) / np.float32(127), np.finfo(np.float32).tiny)
        integers = np.round(values / scale).astype(np.int8)
        graph.initializer.remove(tensor)
        name = tensor.name
        graph.initializer.append(numpy_helper.from_array(integers, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"))
        graph.node.insert(0, helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name], name=name))
        cast = helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], name=f"{name}.float", to=TensorProto.FLOAT)
        graph.node.insert(0, cast)
    return model


def _like(model: ModelProto, stage: ModelProto) -> ModelProto:
    """`model` as clean as `stage` is: its versions, no notes of a tool, and no shapes in between.

    Sorted, too: the tools append the nodes of weights and casts, and nobody may read what comes later.
    """
    ONNXModel(model).topological_sort()
    del model.metadata_props[:], model.graph.value_info[:], model.opset_import[:]
    model.opset_import.extend(stage.opset_import)
    model.ir_version, model.graph.name = stage.ir_version, stage.graph.name
    model.producer_name, model.producer_version = stage.producer_name, stage.producer_version
    for part in (model, model.graph, *model.graph.node):
        part.doc_string = ""
    return model


def _optimized(content: bytes) -> ModelProto:
    """The graph that onnxruntime makes of a model on this machine."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)
