"""Stages of a network stitched into one graph in which every row leaves by itself.

Each stage but the last ends in an exit. The rows that do not leave are gathered, an ``If`` runs the next stage on
them alone, and the results are scattered back::

    stage 0 -> hidden, logits                                   (N, ...), (N, classes)
    stays = not (max softmax(logits) + taint >= threshold)      (N,)
    rows = where stays                                          (M, 1)
    if M > 0: logits[rows], exit_index[rows] = stage 1 on hidden[rows], and so on

The weights of a stage lie inside its branch: in an outer graph onnxruntime would not lay them out for its fast
convolutions. `taint` is 0 for an image of finite pixels and NaN for any other, and every comparison with NaN says
"stays": neither a NaN confidence nor an image that an integer network would see as zeros can leave early.

The graph is as small as it is because every node costs a microsecond for every row, however small the network.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from lcprune.errors import ExportError
from lcprune.export.metadata import ModelInfo, attach
from lcprune.export.segments import cpu_copy, export_module, export_stages
from lcprune.export.session import Floats
from lcprune.export.verify import Parity, as_float, check_parity, write_checked
from lcprune.models.network import Network

ThresholdInput = Literal["optional", "required", "none"]
Part = tuple[list[NodeProto], list[TensorProto]]  # nodes, and the weights they read

_TORCH_BATCH = 64


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
    info = _complete(info, "submodel", 1, ())
    expected = _torch_logits(submodel, images)
    return write_checked([_finish(model, info)], path, lambda part: check_parity(part, images, expected, ()))


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
    info = _complete(info, "progressive", len(kept) + 1, thresholds)
    stages = export_stages(network, kept, images.shape[1:])
    # Fixed thresholds hide the exits that few images reach, so the same stages are checked with an input as well.
    inputs: list[ThresholdInput] = ["required", "none"] if threshold_input == "none" else [threshold_input]
    versions = [_finish(stitch(stages, thresholds, kind), info) for kind in inputs]
    expected = _torch_logits(network, images)[[*kept, len(network.groups) - 1]]
    return write_checked(versions, path, lambda part: check_parity(part, images, expected, thresholds))


def stitch(stages: Sequence[ModelProto], thresholds: Sequence[float], threshold_input: ThresholdInput) -> ModelProto:
    """One progressive model out of `stages`, as `segments.export_stages` makes them.

    Its input is that of the first stage, its outputs are ``logits`` ``(batch, classes)`` and ``exit_index``
    ``(batch,)``, which counts the exits of this model from 0, main last.

    Args:
        stages: One per early exit, with outputs ``hidden`` and ``logits``, and the last one with ``logits``.
        thresholds: Smallest confidence with which a row leaves, one per early exit.
        threshold_input: ``optional``: an input that has `thresholds` as its default; ``required``: an input that must
            be fed; ``none``: constants.

    Raises:
        ValueError: If there is no early exit, or not one threshold for each.
    """
    _check_counts(len(stages) - 1, len(thresholds))
    image = stages[0].graph.input[0]
    batch = image.type.tensor_type.shape.dim[0].dim_param
    inputs = [image]
    if threshold_input != "none":
        inputs.append(helper.make_tensor_value_info("threshold", TensorProto.FLOAT, [len(thresholds)]))
    nodes, initializers = _preamble(image.name, thresholds, threshold_input)
    exit_nodes, exit_initializers = _exit(stages, 0, image.name, "taint", ("logits", "exit_index"))
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
    initializers = [_constant("zero", np.float32(0)), _constant("pixel_axes", np.array([1, 2, 3]))]
    nodes = [
        _node("ReduceSum", [image, "pixel_axes"], "pixel_sum", keepdims=0),  # not finite if a pixel is not
        _node("Mul", ["pixel_sum", "zero"], "taint"),  # 0 x infinity is NaN, too
    ]
    if threshold_input == "none":
        return nodes, [*initializers, *(_constant(names[k], values[k : k + 1]) for k in range(len(names)))]
    if threshold_input == "optional":
        initializers.append(_constant("threshold", values))
    nodes.append(helper.make_node("Split", ["threshold"], names, name="split", axis=0, num_outputs=len(names)))
    return nodes, initializers


def _exit(stages: Sequence[ModelProto], k: int, inputs: str, taint: str, outputs: tuple[str, str]) -> Part:
    """Stage `k`, its exit, and in a branch everything after it.

    Args:
        stages: All of them.
        k: Of the stage, from 0.
        inputs: Name of what the stage works on, for the rows that have come so far.
        taint: The same rows' 0 or NaN.
        outputs: Names of the logits, and of how many exits further on each row left.
    """
    p = f"exit{k}."
    nodes, initializers = _inline(stages[k], f"stage{k}.", inputs, [f"{p}hidden", f"{p}logits"])
    nodes += [
        _node("Softmax", [f"{p}logits"], f"{p}softmax", axis=1),
        _node("ReduceMax", [f"{p}softmax", f"{p}class_axis"], f"{p}probability", keepdims=0),
        _node("Add", [f"{p}probability", taint], f"{p}confidence"),
        _node("GreaterOrEqual", [f"{p}confidence", f"threshold.{k}"], f"{p}leaves"),
        _node("Not", [f"{p}leaves"], f"{p}stays"),
        _node("NonZero", [f"{p}stays"], f"{p}positions"),  # (1, M)
        _node("Size", [f"{p}positions"], f"{p}count"),
        _node("Cast", [f"{p}count"], f"{p}any", to=TensorProto.BOOL),
    ]
    branches = {"then_branch": _then_branch(stages, k, taint), "else_branch": _else_branch(p, taint)}
    nodes.append(helper.make_node("If", [f"{p}any"], outputs, name=f"{p}if", **branches))
    return nodes, [*initializers, _constant(f"{p}class_axis", np.array([1]))]


def _then_branch(stages: Sequence[ModelProto], k: int, taint: str) -> GraphProto:
    """Some rows stay: the rest of the network for them."""
    p = f"exit{k}."
    nodes = [
        _node("Transpose", [f"{p}positions"], f"{p}rows", perm=[1, 0]),  # (M, 1)
        _node("GatherND", [f"{p}hidden", f"{p}rows"], f"{p}rest"),  # (M, ...)
    ]
    if k == len(stages) - 2:  # then comes main, where all of them leave
        rest, initializers = _inline(stages[k + 1], f"stage{k + 1}.", f"{p}rest", [f"{p}rest_logits"])
        exits = [_node("Cast", [f"{p}stays"], f"{p}then_exit", to=TensorProto.INT64)]
    else:
        nodes.append(_node("GatherND", [taint, f"{p}rows"], f"{p}rest_taint"))
        names = f"{p}rest_logits", f"{p}rest_exit"
        rest, initializers = _exit(stages, k + 1, f"{p}rest", f"{p}rest_taint", names)
        exits = [
            _node("Cast", [f"{p}stays"], f"{p}one_further", to=TensorProto.INT64),
            _node("ScatterND", [f"{p}one_further", f"{p}rows", f"{p}rest_exit"], f"{p}then_exit", reduction="add"),
        ]
    scatter = _node("ScatterND", [f"{p}logits", f"{p}rows", f"{p}rest_logits"], f"{p}then_logits")
    return _branch(f"{p}then", [*nodes, *rest, *exits, scatter], initializers)


def _else_branch(p: str, taint: str) -> GraphProto:
    """All rows leave: their taint is 0, and so is the number of exits that they go on."""
    logits = _node("Identity", [f"{p}logits"], f"{p}else_logits")  # a branch may not return what lies outside
    return _branch(f"{p}else", [logits, _node("Cast", [taint], f"{p}else_exit", to=TensorProto.INT64)], [])


def _branch(name: str, nodes: list[NodeProto], initializers: list[TensorProto]) -> GraphProto:
    outputs = [
        helper.make_tensor_value_info(f"{name}_logits", TensorProto.FLOAT, None),
        helper.make_tensor_value_info(f"{name}_exit", TensorProto.INT64, None),
    ]
    return helper.make_graph(nodes, name, [], outputs, initializers)


def _inline(model: ModelProto, prefix: str, inputs: str, outputs: Sequence[str]) -> Part:
    """Nodes and weights of a stage, every name prefixed, and its ends joined to the names around it."""
    graph = model.graph
    ends = {graph.input[0].name: inputs, "": ""}  # an empty name is an input left out
    ends |= {value.name: name for value, name in zip(graph.output, outputs, strict=True)}
    nodes, initializers = [], []
    for original in graph.node:
        if any(attribute.HasField("g") for attribute in original.attribute):
            raise ExportError(
                "a layer group branches on its own values", "use layers without control flow in a progressive model"
            )
        node = NodeProto()
        node.CopyFrom(original)
        node.input[:] = [ends.get(name, prefix + name) for name in original.input]
        node.output[:] = [ends.get(name, prefix + name) for name in original.output]
        node.name = node.output[0]
        nodes.append(node)
    for weight in graph.initializer:
        tensor = TensorProto()
        tensor.CopyFrom(weight)
        tensor.name = prefix + weight.name
        initializers.append(tensor)
    return nodes, initializers


def _node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs, [output], name=output, **attributes)


def _constant(name: str, value: NDArray[Any] | np.generic) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def _check_counts(early_exits: int, thresholds: int) -> None:
    if early_exits < 1:
        raise ValueError("a progressive model needs an early exit: write main as a sub-model instead")
    if early_exits != thresholds:
        raise ValueError(f"{early_exits} early exits need as many thresholds, not {thresholds}")


def _complete(
    info: ModelInfo, kind: Literal["submodel", "progressive"], exits: int, thresholds: Sequence[float]
) -> ModelInfo:
    if len(info.exits) != exits or len(info.exit_macs) != exits:
        raise ValueError(f"the metadata describes {len(info.exits)} exits, the file has {exits}")
    temperatures = info.temperatures or (1.0,) * exits
    return dataclasses.replace(info, kind=kind, thresholds=tuple(map(float, thresholds)), temperatures=temperatures)


def _finish(model: ModelProto, info: ModelInfo) -> bytes:
    """The bytes of a model with its metadata: the same for the same weights."""
    attach(model, info)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}", "report this, with the recipe") from error
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _torch_logits(module: nn.Module, images: NDArray[np.generic]) -> Floats:
    """Logits of every exit, ``(exits, N, classes)``; of a plain module ``(1, N, classes)``."""
    pixels = torch.from_numpy(as_float(images))
    batches = []
    with torch.no_grad():
        for start in range(0, len(pixels), _TORCH_BATCH):
            logits = module(pixels[start : start + _TORCH_BATCH])
            batches.append(torch.stack(logits) if isinstance(logits, list) else logits[None])
    return torch.cat(batches, dim=1).numpy()
