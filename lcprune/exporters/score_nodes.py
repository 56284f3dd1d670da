"""Confidence scores computed inside the graph: what `lcprune_runtime.criterion` computes in numpy.

A test holds the two together. Here a score is NaN where a logit is NaN or infinity, whatever the criterion; a logit of
minus infinity is no more than a probability of 0.
"""

import numpy as np
from onnx import NodeProto, TensorProto, helper

from lcprune.exporters.graphs import Part, constant, node
from lcprune.specs import Criterion


def score_nodes(
    prefix: str, logits: str, classes: int, criterion: Criterion, temperature: float, class_before: str | None
) -> Part:
    """What computes ``{prefix}score`` ``(N,)`` and, for ``agreement``, ``{prefix}class`` ``(N,)``.

    Args:
        prefix: Of all names.
        logits: Name of the logits ``(N, classes)``.
        classes: How many.
        criterion: Of leaving.
        temperature: 1 adds no node.
        class_before: Name of the classes that the exit before has predicted ``(N,)``; None at the first exit.
    """
    nodes, constants, scaled = [], [], logits
    if criterion != "margin":
        constants.append(constant(f"{prefix}class_axis", np.array([1])))
    if temperature != 1:
        scaled = f"{prefix}scaled"
        nodes.append(node("Div", [logits, f"{prefix}temperature"], scaled))
        constants.append(constant(f"{prefix}temperature", np.float32(temperature)))
    nodes.append(node("Softmax", [scaled], f"{prefix}softmax", axis=1))
    if criterion == "margin":
        more, needed = _margin(prefix)
    elif criterion == "entropy":
        more, needed = _certainty(prefix, scaled, classes)
    elif criterion == "agreement":
        more, needed = _agreement(prefix, logits, class_before)
    else:
        more, needed = [_largest(prefix, "score")], []
    return [*nodes, *more], [*constants, *needed]


def _largest(prefix: str, name: str) -> NodeProto:
    return node("ReduceMax", [f"{prefix}softmax", f"{prefix}class_axis"], f"{prefix}{name}", keepdims=0)


def _margin(prefix: str) -> Part:
    """The two largest probabilities, times 1 and -1."""
    nodes = [
        helper.make_node(
            "TopK", [f"{prefix}softmax", f"{prefix}two"], [f"{prefix}largest", f"{prefix}of"], name=f"{prefix}largest"
        ),
        node("MatMul", [f"{prefix}largest", f"{prefix}signs"], f"{prefix}score"),
    ]
    return nodes, [
        constant(f"{prefix}two", np.array([2])),
        constant(f"{prefix}signs", np.array([1, -1], np.float32)),
    ]


def _certainty(prefix: str, logits: str, classes: int) -> Part:
    """|1 + sum p log p / log C|: rounding may go below 0, and a threshold of 0 lets all rows leave."""
    nodes = [
        node("LogSoftmax", [logits], f"{prefix}log", axis=1),
        node("Mul", [f"{prefix}softmax", f"{prefix}log"], f"{prefix}terms"),
        node("ReduceSum", [f"{prefix}terms", f"{prefix}class_axis"], f"{prefix}sum", keepdims=0),
        node("Div", [f"{prefix}sum", f"{prefix}log_classes"], f"{prefix}share"),
        node("Add", [f"{prefix}share", f"{prefix}one"], f"{prefix}signed"),
        node("Abs", [f"{prefix}signed"], f"{prefix}score"),
    ]
    log_classes = constant(f"{prefix}log_classes", np.float32(_log_classes(classes)))
    return nodes, [log_classes, constant(f"{prefix}one", np.float32(1))]


def _agreement(prefix: str, logits: str, class_before: str | None) -> Part:
    own = node("ArgMax", [logits], f"{prefix}class", axis=1, keepdims=0)
    if class_before is None:
        return [own, _largest(prefix, "score")], []
    return [
        own,
        _largest(prefix, "probability"),
        node("Equal", [f"{prefix}class", class_before], f"{prefix}agrees"),
        node("Cast", [f"{prefix}agrees"], f"{prefix}weight", to=TensorProto.FLOAT),
        node("Mul", [f"{prefix}probability", f"{prefix}weight"], f"{prefix}score"),
    ], []


def _log_classes(classes: int) -> float:
    return float(np.log(max(classes, 2)))
