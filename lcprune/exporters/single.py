"""The exits of a progressive model for one image: every shape is fixed, and every condition is a scalar.

There are no rows to gather and none to put back::

    stage 0 -> hidden, logits                                   (1, ...), (1, classes)
    if not (score(logits) + nan_guard >= threshold): stage 1 on hidden, and so on
    else: logits, and the number of the exit
"""

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from lcprune.exporters.graphs import Part, constant, node
from lcprune.exporters.parts import Incoming, Plan, decision, inline

_ROW = "one_row"


def fixed_batch(stage: ModelProto) -> ModelProto:
    """A copy of a stage, or of a sub-model, that takes one image.

    What is flattened is reshaped to one row: of these two, CoreML programs take only a Reshape.
    """
    model = ModelProto()
    model.CopyFrom(stage)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for flatten in [entry for entry in model.graph.node if entry.op_type == "Flatten"]:
        flatten.CopyFrom(helper.make_node("Reshape", [flatten.input[0], _ROW], flatten.output, name=flatten.name))
    if any(_ROW in entry.input for entry in model.graph.node):
        model.graph.initializer.append(constant(_ROW, np.array([1, -1])))
    return model


def is_fixed(stage: ModelProto) -> bool:
    """Whether a stage takes one image, and not any number."""
    return bool(stage.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value"))


def single_exits(plan: Plan, image: str) -> Part:
    """All stages and exits; gives ``logits`` and ``exit_index``, takes `image`, ``nan_guard`` and ``threshold.k``."""
    return _exit(plan, 0, image, Incoming(image, "nan_guard"), ("logits", "exit_index"))


def _exit(plan: Plan, k: int, image: str, incoming: Incoming, outputs: Sequence[str]) -> Part:
    """Stage `k`, its exit, and in a branch everything after it."""
    p = f"exit{k}."
    nodes, initializers = decision(plan, k, incoming)
    names = f"{p}then_logits", f"{p}then_exit"
    hidden = image if plan.reads_image(k + 1) else f"{p}hidden"
    if k == len(plan.stages) - 2:
        rest, weights = inline(plan.stages[k + 1], f"stage{k + 1}.", hidden, names[:1])
        then = _branch(plan, names, [*rest, _number(k + 1, names[1])], weights)
    else:
        classes = f"{p}class" if plan.criterion == "agreement" else None
        following = Incoming(hidden, incoming.nan_guard, classes)
        then = _branch(plan, names, *_exit(plan, k + 1, image, following, names))
    names = f"{p}else_logits", f"{p}else_exit"
    logits = node("Identity", [f"{p}logits"], names[0])  # a branch may not return what lies outside
    other = _branch(plan, names, [logits, _number(k, names[1])], [])
    nodes += [
        node("Squeeze", [f"{p}stays"], f"{p}goes_on"),  # a scalar: TensorRT takes no other condition
        helper.make_node("If", [f"{p}goes_on"], outputs, name=f"{p}if", then_branch=then, else_branch=other),
    ]
    return nodes, initializers


def _number(k: int, name: str) -> NodeProto:
    """Exit `k` as the exit of the only row."""
    return node("Constant", [], name, value=constant("", np.array([k])))


def _branch(plan: Plan, names: Sequence[str], nodes: list[NodeProto], weights: list[TensorProto]) -> GraphProto:
    outputs = [
        helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [1, plan.classes]),
        helper.make_tensor_value_info(names[1], TensorProto.INT64, [1]),
    ]
    return helper.make_graph(nodes, names[0].rpartition("_")[0], [], outputs, weights)
