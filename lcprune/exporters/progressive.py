"""Stages of a network stitched into one graph in which every image takes its own exit, and the files made of them.

After each stage but the last an exit decides which rows leave::

    stage k -> hidden, logits                                   (N, ...), (N, classes)
    stays = not (score(logits) + nan_guard >= threshold)        (N,)

`nan_guard` is 0 for an image of finite pixels and NaN for any other. A comparison with NaN is false, so such a row
stays: neither a NaN score nor an image that an integer network would see as zeros takes an early exit. `score_nodes`
computes the score; `nested`, `flat` and `single` are the layouts.
"""

import dataclasses
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from lcprune.errors import ExportError
from lcprune.exporters.flat import flat_exits
from lcprune.exporters.graphs import Part, constant
from lcprune.exporters.metadata import attach, refuse_unreadable
from lcprune.exporters.nested import nested_exits
from lcprune.exporters.parts import Plan, nan_guard
from lcprune.exporters.quantize import Quantization, check_int8
from lcprune.exporters.shared_weights import share
from lcprune.exporters.single import fixed_batch, is_fixed, single_exits
from lcprune.exporters.stages import cascade_stages
from lcprune.exporters.verify import Parity, Reference, check_parity, write_checked
from lcprune.models.network import Network
from lcprune.specs import Criterion, Layout, ThresholdInput, format_of
from lcprune_runtime.metadata import PREFIX, ModelInfo


def write_network(
    network: Network,
    kept: Sequence[int],
    path: Path,
    info: ModelInfo,
    images: NDArray[np.generic],
    threshold_input: ThresholdInput = "optional",
) -> Parity:
    """`write_model` of a network in float32, with the early exits `kept`; see `stages.cascade_stages`."""
    return write_model(*cascade_stages(network, kept, images), path, info, threshold_input)


def write_model(
    stages: Sequence[ModelProto],
    reference: Reference,
    path: Path,
    info: ModelInfo,
    threshold_input: ThresholdInput = "optional",
    quantization: Quantization | None = None,
) -> Parity:
    """Writes stages as one model, compared with the reference before it gets its name.

    Args:
        stages: One is a sub-model, more are a progressive model.
        reference: What the exits of the file should give.
        path: A file there is replaced only if the check passes. Its suffix names the format.
        info: Of the exits of the file. Its `kind` and, where it has none, its `temperatures` are filled in here.
        threshold_input: See `stitch`.
        quantization: What was done to the stages.

    Raises:
        ExportError: If the file differs from the reference, has a convolution that is not int8 though it should be, or
            cannot be written.
    """
    info = complete(info, len(stages))
    versions = _versions(stages, info, threshold_input, quantization)
    if quantization and quantization.precision == "int8":
        for content in versions:
            check_int8(content, quantization.int8_convolutions)
    if module := format_of(path.suffix).module:
        versions = [import_module(module).convert(content) for content in versions]
    return write_checked(versions, path, lambda part: check_parity(part, reference, info.thresholds))


def file_size(stages: Sequence[ModelProto], info: ModelInfo) -> int:
    """Bytes of the file that `write_model` would make of `stages`."""
    return len(_versions(stages, complete(info, len(stages)), "optional")[-1])


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
        criterion: Score that is compared with the thresholds.
        temperatures: By which the logits are divided before their score is taken, one per stage; none for 1.
            The logits that come out are not divided.
        layout: ``nested``: the next stage is in a branch; ``shared``: the same, with weights that several stages
            have in common outside of the branches; ``flat``: it runs on fewer rows, or on none. Stages of
            `single.fixed_batch` are not flat.

    Raises:
        ValueError: If there is no early exit, or not one threshold for each, or `layout` does not fit the stages.
    """
    if len(stages) < 2 or len(thresholds) != len(stages) - 1:
        raise ValueError(f"{len(stages)} stages and {len(thresholds)} thresholds are no progressive model")
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
    if layout != "nested":
        share(graph)
    opsets, ir_version = stages[0].opset_import, stages[0].ir_version
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="lcprune")


def _preamble(image: str, thresholds: Sequence[float], threshold_input: ThresholdInput) -> Part:
    """What is computed once: the NaN guard of each row, and the threshold of each exit, ``threshold.0`` and on."""
    names = [f"threshold.{k}" for k in range(len(thresholds))]
    values = np.asarray(thresholds, np.float32)
    nodes, initializers = nan_guard(image)
    if threshold_input == "none":
        return nodes, [*initializers, *(constant(names[k], values[k : k + 1]) for k in range(len(names)))]
    if threshold_input == "optional":
        initializers.append(constant("threshold", values))
    nodes.append(helper.make_node("Split", ["threshold"], names, name="split", axis=0, num_outputs=len(names)))
    return nodes, initializers


def complete(info: ModelInfo, exits: int) -> ModelInfo:
    """The metadata of a file with so many exits, with its `kind` and, where it has none, its `temperatures`.

    Raises:
        ValueError: If it describes other exits.
    """
    if not len(info.exits) == len(info.exit_macs) == len(info.thresholds) + 1 == exits:
        described = f"{len(info.exits)} exits and {len(info.thresholds)} thresholds"
        raise ValueError(f"the metadata describes {described}, the file has {exits} exits")
    return dataclasses.replace(
        info, kind="progressive" if exits > 1 else "submodel", temperatures=info.temperatures or (1.0,) * exits
    )


def _versions(
    stages: Sequence[ModelProto],
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
    stitched = (
        stitch(stages, info.thresholds, kind, info.criterion, info.temperatures, info.layout) for kind in inputs
    )
    return [_finish(model, info, quantization) for model in stitched]


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
