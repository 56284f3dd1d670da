"""Stages in float16, or with int8 weights and float32 arithmetic."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel

from lcprune.errors import ExportError
from lcprune_runtime.session import open_session, to_float

Stages = Sequence[ModelProto]

_FP16_MAX = float(np.finfo(np.float16).max)


def refuse_overflow(stages: Stages, images: NDArray[np.generic]) -> None:
    """Looks at every number of the float32 stages: a CPU computes fp16 in float32, and would not show the overflow.

    Raises:
        ExportError: If `images` make a number that is too large for float16.
    """
    pixels = to_float(images)
    hidden: NDArray[Any] = pixels
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
        hidden = results[0] if len(stage.graph.output) > 1 else pixels


def to_fp16(stage: ModelProto) -> ModelProto:
    """Weights and arithmetic in float16 between a cast of the input and casts of the outputs."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return like(convert_float_to_float16(copy.deepcopy(stage), keep_io_types=True), stage)


def to_w8(stage: ModelProto) -> ModelProto:
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


def like(model: ModelProto, stage: ModelProto) -> ModelProto:
    """`model` as clean as `stage` is: its versions, no notes of a tool, and no shapes in between.

    Sorted, too: the tools append the nodes of weights and casts, and a node may only read what comes before it.
    """
    ONNXModel(model).topological_sort()
    del model.metadata_props[:], model.graph.value_info[:], model.opset_import[:]
    model.opset_import.extend(stage.opset_import)
    model.ir_version, model.graph.name = stage.ir_version, stage.graph.name
    model.producer_name, model.producer_version = stage.producer_name, stage.producer_version
    for part in (model, model.graph, *model.graph.node):
        part.doc_string = ""
    return model
