"""Stages of a network stitched into one graph in which every row leaves by itself, and the files made of them.

After each stage but the last an exit decides who leaves::

    stage k -> hidden, logits                                   (N, ...), (N, classes)
    stays = not (score(logits) + taint >= threshold)            (N,)

`taint` is 0 for an image of finite pixels and NaN for any other, and every comparison with NaN says "stays": neither a
NaN score nor an image that an integer network would see as zeros can leave early. `criterion` makes the score;
`nested`, `flat` and `single` are the ways to go on with the rows that stay.
"""

import copy
import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from torch import nn

from lcprune.errors import ExportError, ParityError
from lcprune.exporters.flat import flat_exits
from lcprune.exporters.graphs import Part, constant
from lcprune.exporters.metadata import PREFIX, ModelInfo, attach, refuse_unreadable
from lcprune.exporters.nested import nested_exits
from lcprune.exporters.parts import Plan, taint
from lcprune.exporters.quantize import Quantization, Reduced, check_int8
from lcprune.exporters.session import Floats, to_float
from lcprune.exporters.single import fixed_batch, is_fixed, single_exits
from lcprune.exporters.stages import cpu_copy, export_module, export_stages
from lcprune.exporters.verify import (
    MAX_RELATIVE_DIFF,
    Parity,
    check_parity,
    check_stages,
    stage_logits,
    write_checked,
)
from lcprune.models.network import Network
from lcprune.specs import PRECISIONS, Criterion, Layout, ThresholdInput, format_of

OWN_STAGES = "its own stages"
"""What a file of reduced precision is held against; how near it is to float32 is for the pipeline to say."""

_TORCH_BATCH = 64
_ROUNDING_IMAGES = 32


def write_submodel(network: Network, k: int, path: Path, info: ModelInfo, images: NDArray[np.generic]) -> Parity:
    """Writes sub-model `k` as ONNX with the output ``logits``, checked against torch before it gets its name.

    Args:
        network: Left as it is.
        k: From 1; the last one is main, without critics.
        path: A file there is replaced only if the check passes.
        info: Its `kind`, `thresholds` and `temperatures` are filled in here.
        images: For the check, ``(N, C, H, W)``, uint8 or float in 0..1.

    Raises:
        ExportError: If torch cannot export it, the file differs from torch, or it cannot be written.
    """
    submodel = cpu_copy(network.submodel(k))
    model = export_module(submodel, images.shape[1:], ("logits",))
    info = _complete(info, 1, ())
    expected = _torch_logits(submodel, images)
    versions = _formatted(_versions([model], (), info, "none"), path)
    with _rounding_named(submodel, images):
        return write_checked(versions, path, lambda part: check_parity(part, images, expected, ()))


def write_progressive(
    network: Network,
    kept: Sequence[int],
    thresholds: Sequence[float],
    path: Path,
    info: ModelInfo,
    images: NDArray[np.generic],
    threshold_input: ThresholdInput = "optional",
) -> Parity:
    """Writes one model that stops early, checked against torch before it gets its name.

    Args:
        network: Left as it is.
        kept: Early exits that the file keeps, as exit indices of the network, ascending.
        thresholds: Smallest confidence with which a row leaves, one per kept exit.
        path: A file there is replaced only if the check passes.
        info: Its `exits` are the kept ones and main; `kind`, `thresholds` and `temperatures` are filled in here.
        images: For the check, ``(N, C, H, W)``, uint8 or float in 0..1.
        threshold_input: See `stitch`.

    Raises:
        ExportError: If torch cannot export it, the file differs from torch, or it cannot be written.
        ValueError: If no early exit is kept: main is a sub-model.
    """
    _check_counts(len(kept), len(thresholds))
    network = cpu_copy(network)
    info = _complete(info, len(kept) + 1, thresholds)
    stages = export_stages(network, kept, images.shape[1:])
    versions = _formatted(_versions(stages, thresholds, info, threshold_input), path)
    expected = _torch_logits(network, images)[[*kept, len(network.groups) - 1]]
    with _rounding_named(network, images):
        return write_checked(versions, path, lambda part: check_parity(part, images, expected, thresholds))


def cascade_stages(network: Network, kept: Sequence[int], images: NDArray[np.generic]) -> list[ModelProto]:
    """The float32 stages of the cascade with the early exits `kept`, held against torch on `images`.

    Raises:
        ExportError: If torch cannot export one, or they differ from torch.
    """
    network = cpu_copy(network)
    stages = export_stages(network, kept, images.shape[1:])
    expected = _torch_logits(network, images)[[*kept, len(network.groups) - 1]]
    with _rounding_named(network, images):
        check_stages(stages, images, expected)
    return stages


def submodel_stages(network: Network, k: int, images: NDArray[np.generic]) -> list[ModelProto]:
    """Sub-model `k`, from 1, as the only stage; see `cascade_stages`."""
    submodel = cpu_copy(network.submodel(k))
    stages = [export_module(submodel, images.shape[1:], ("logits",))]
    with _rounding_named(submodel, images):
        check_stages(stages, images, _torch_logits(submodel, images))
    return stages


def write_reduced(
    reduced: Reduced,
    thresholds: Sequence[float],
    path: Path,
    info: ModelInfo,
    images: NDArray[np.generic],
    threshold_input: ThresholdInput = "optional",
) -> Parity:
    """Writes stages of reduced precision as one model, checked against these stages before it gets its name.

    Args:
        reduced: One stage is a sub-model, more are a progressive model.
        thresholds: Smallest confidence with which a row leaves, one per stage but the last.
        path: A file there is replaced only if the check passes.
        info: As for `write_submodel` and `write_progressive`.
        images: For the check, ``(N, C, H, W)``, uint8 or float in 0..1.
        threshold_input: See `stitch`.

    Raises:
        ExportError: If the file differs from its stages, has a convolution that is not int8 though it should be, or
            cannot be written.
    """
    stages, quantization = reduced.stages, reduced.quantization
    info = _complete(info, len(stages), thresholds)
    expected, allowed = stage_logits(stages, images), PRECISIONS[quantization.precision].max_relative_diff
    versions = _versions(stages, thresholds, info, threshold_input, quantization)
    if quantization.precision == "int8":
        for content in versions:
            check_int8(content, quantization.int8_convolutions)
    return write_checked(
        _formatted(versions, path),
        path,
        lambda part: check_parity(part, images, expected, thresholds, OWN_STAGES, allowed),
    )


def file_size(stages: Sequence[ModelProto], thresholds: Sequence[float], info: ModelInfo) -> int:
    """Bytes of the file that `stages` would make; one stage is a sub-model, more are a progressive model."""
    info = _complete(info, len(stages), thresholds)
    return len(_versions(stages, thresholds, info, "optional")[-1])


def stitch(
    stages: Sequence[ModelProto],
    thresholds: Sequence[float],
    threshold_input: ThresholdInput,
    criterion: Criterion = "softmax",
    temperatures: Sequence[float] = (),
    layout: Layout = "nested",
) -> ModelProto:
    """One progressive model out of `stages`, as `stages.export_stages` makes them.

    Its input is that of the first stage, its outputs are ``logits`` ``(batch, classes)`` and ``exit_index``
    ``(batch,)``, which counts the exits of this model from 0, main last.

    Args:
        stages: One per early exit, with outputs ``hidden`` and ``logits``, and the last one with ``logits``.
        thresholds: Smallest confidence with which a row leaves, one per early exit.
        threshold_input: ``optional``: an input that has `thresholds` as its default; ``required``: an input that must
            be fed; ``none``: constants.
        criterion: What is held against the thresholds.
        temperatures: By which the logits are divided before their score is taken, one per stage; none for 1.
            The logits that come out are not divided.
        layout: ``nested``: the next stage is in a branch; ``flat``: it runs on fewer rows, or on none. Stages of
            `single.fixed_batch` are nested.

    Raises:
        ValueError: If there is no early exit, or not one threshold for each, or `layout` does not fit the stages.
    """
    _check_counts(len(stages) - 1, len(thresholds))
    if is_fixed(stages[0]) and layout == "flat":
        raise ValueError("the rows of a flat model get fewer, so the batch cannot be fixed")
    plan = Plan(stages, criterion, temperatures or (1.0,) * len(stages))
    image = stages[0].graph.input[0]
    batch = 1 if is_fixed(stages[0]) else image.type.tensor_type.shape.dim[0].dim_param
    inputs = [image]
    if threshold_input != "none":
        inputs.append(helper.make_tensor_value_info("threshold", TensorProto.FLOAT, [len(thresholds)]))
    nodes, initializers = _preamble(image.name, thresholds, threshold_input)
    write_exits = flat_exits if layout == "flat" else single_exits if is_fixed(stages[0]) else nested_exits
    exit_nodes, exit_initializers = write_exits(plan, image.name)
    exit_index = helper.make_tensor_value_info("exit_index", TensorProto.INT64, [batch])
    graph = helper.make_graph(
        [*nodes, *exit_nodes],
        "lcprune",
        inputs,
        [stages[-1].graph.output[0], exit_index],
        [*initializers, *exit_initializers],
    )
    opsets, ir_version = stages[0].opset_import, stages[0].ir_version
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="lcprune")


def _preamble(image: str, thresholds: Sequence[float], threshold_input: ThresholdInput) -> Part:
    """What is computed once: the taint of each row, and the threshold of each exit, ``threshold.0`` and on."""
    names = [f"threshold.{k}" for k in range(len(thresholds))]
    values = np.asarray(thresholds, np.float32)
    nodes, initializers = taint(image)
    if threshold_input == "none":
        return nodes, [*initializers, *(constant(names[k], values[k : k + 1]) for k in range(len(names)))]
    if threshold_input == "optional":
        initializers.append(constant("threshold", values))
    nodes.append(helper.make_node("Split", ["threshold"], names, name="split", axis=0, num_outputs=len(names)))
    return nodes, initializers


def _check_counts(early_exits: int, thresholds: int) -> None:
    if early_exits < 1:
        raise ValueError("a progressive model needs an early exit: write main as a sub-model instead")
    if early_exits != thresholds:
        raise ValueError(f"{early_exits} early exits need as many thresholds, not {thresholds}")


def _complete(info: ModelInfo, exits: int, thresholds: Sequence[float]) -> ModelInfo:
    if len(info.exits) != exits or len(info.exit_macs) != exits:
        raise ValueError(f"the metadata describes {len(info.exits)} exits, the file has {exits}")
    return dataclasses.replace(
        info,
        kind="progressive" if exits > 1 else "submodel",
        thresholds=tuple(map(float, thresholds)),
        temperatures=info.temperatures or (1.0,) * exits,
    )


def _versions(
    stages: Sequence[ModelProto],
    thresholds: Sequence[float],
    info: ModelInfo,
    threshold_input: ThresholdInput,
    quantization: Quantization | None = None,
) -> list[bytes]:
    """What is to be checked; the last one is the file.

    Fixed thresholds hide the exits that few images reach, so the same stages are checked with an input as well.
    """
    if info.batch is not None:
        stages = [fixed_batch(stage) for stage in stages]
    if len(stages) == 1:
        return [_finish(stages[0], info, quantization)]
    inputs: list[ThresholdInput] = ["required", "none"] if threshold_input == "none" else [threshold_input]
    stitched = (stitch(stages, thresholds, kind, info.criterion, info.temperatures, info.layout) for kind in inputs)
    return [_finish(model, info, quantization) for model in stitched]


def _formatted(versions: Sequence[bytes], path: Path) -> list[bytes]:
    """`versions` in the format that the name of the file asks for."""
    module = format_of(path.suffix).module
    return [import_module(module).convert(content) for content in versions] if module else list(versions)


def _finish(model: ModelProto, info: ModelInfo, quantization: Quantization | None = None) -> bytes:
    """The bytes of a model with its metadata: the same for the same weights."""
    attach(model, info)
    refuse_unreadable(model)
    if quantization is not None:
        model.metadata_props.add(key=f"{PREFIX}quantization", value=json.dumps(quantization.as_json()))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        problem = f"the exported graph is not valid ONNX: {str(error).strip()}"
        raise ExportError(problem, "report this, with the recipe") from error
    content: bytes = model.SerializeToString(deterministic=True)
    return content


@contextmanager
def _rounding_named(module: nn.Module, images: NDArray[np.generic]) -> Iterator[None]:
    """Says so where a file misses torch because `module` is one whose logits float32 cannot say any better.

    BatchNorm that divides by next to nothing makes such networks, as after a few steps of training.
    """
    try:
        yield
    except ParityError as error:
        off = _rounding(module, images[:_ROUNDING_IMAGES])
        if not off > MAX_RELATIVE_DIFF / 10:  # also where it is not known
            raise
        raise ParityError(
            f"{error.problem}; torch itself is {off:.0e} of the largest logit off the same network in 64 bits",
            "train it longer: its numbers are too far apart for 32 bits, as those of BatchNorm are after a few steps",
        ) from error


def _rounding(module: nn.Module, images: NDArray[np.generic]) -> float:
    """By how much torch in float32 is off float64, as a part of the largest logit; NaN if it cannot do float64."""
    try:
        exact = _torch_logits(copy.deepcopy(module).double(), images, torch.float64)
    except RuntimeError:
        return float("nan")
    return float(np.abs(_torch_logits(module, images) - exact).max() / np.abs(exact).max())


def _torch_logits(module: nn.Module, images: NDArray[np.generic], dtype: torch.dtype = torch.float32) -> Floats:
    """Logits of every exit, ``(exits, N, classes)``; of a plain module ``(1, N, classes)``."""
    pixels = torch.from_numpy(to_float(images)).to(dtype)
    batches = []
    with torch.no_grad():
        for start in range(0, len(pixels), _TORCH_BATCH):
            logits = module(pixels[start : start + _TORCH_BATCH])
            batches.append(torch.stack(logits) if isinstance(logits, list) else logits[None])
    return torch.cat(batches, dim=1).numpy()
