"""How sure an exit is, inside the graph and in numpy: the score that is held against a threshold. Needs no torch.

`lcprune.analysis.criterion` says what the criteria are; this is the same arithmetic for what runs an exported file, and
a test holds the two together. In the graph a score is NaN where a logit is NaN or infinity, whatever the criterion; a
logit of minus infinity is no more than a probability of 0 there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lcprune.specs import Criterion

Floats = NDArray[np.float32]
Part = tuple[list[NodeProto], list[TensorProto]]  # nodes, and the constants they read


def row_scores(logits: Floats, criterion: Criterion = "softmax", temperatures: float | Floats = 1.0) -> Floats:
    """Score of each row, in float32; NaN where a logit is not finite.

    Args:
        logits: ``(..., classes)``.
        criterion: ``agreement`` is the largest probability here: a row alone has no exit before it.
        temperatures: By which the logits are divided; one for all, or ``(...)``.
    """
    finite = np.asarray(np.isfinite(logits).all(axis=-1))
    with np.errstate(over="ignore", invalid="ignore"):  # logits as far apart as float32 goes
        safe = np.where(finite[..., None], logits, np.float32(0)) / np.asarray(temperatures, np.float32)[..., None]
        below = safe - safe.max(axis=-1, keepdims=True)
        scores = _scores_below(below, criterion)
    return np.where(finite, scores, np.float32(np.nan)).astype(np.float32)


def _scores_below(below: Floats, criterion: Criterion) -> Floats:
    """Scores of logits less their largest, ``(..., classes)``."""
    exponents = np.exp(below)  # the largest is exp(0) = 1
    total = exponents.sum(axis=-1, dtype=np.float32)
    if criterion == "entropy":
        entropy = np.log(total) - (exponents * below).sum(axis=-1) / total
        return np.asarray(np.abs(1 - entropy / np.float32(_log_classes(below.shape[-1]))))
    if criterion == "margin":
        return np.asarray((1 - np.sort(exponents, axis=-1)[..., -2]) / total)
    return np.asarray(1 / total)


def exit_scores(logits: Floats, criterion: Criterion, temperatures: Sequence[float]) -> Floats:
    """Score of each row at each early exit of a cascade, ``(exits, N)``.

    Args:
        logits: Of the early exits, ``(exits, N, classes)``.
        criterion: Of leaving.
        temperatures: One per exit, ``(exits,)``.
    """
    scores = row_scores(logits, criterion, np.asarray(temperatures, np.float32)[:, None])
    if criterion == "agreement":
        classes = logits.argmax(axis=-1)
        scores[1:] *= classes[1:] == classes[:-1]
    return scores


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
        class_before: Name of what the exit before has said ``(N,)``; None at the first exit.
    """
    nodes, constants, scaled = [], [], logits
    if criterion != "margin":
        constants.append(_constant(f"{prefix}class_axis", np.array([1])))
    if temperature != 1:
        scaled = f"{prefix}scaled"
        nodes.append(_node("Div", [logits, f"{prefix}temperature"], scaled))
        constants.append(_constant(f"{prefix}temperature", np.float32(temperature)))
    nodes.append(_node("Softmax", [scaled], f"{prefix}softmax", axis=1))
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
    return _node("ReduceMax", [f"{prefix}softmax", f"{prefix}class_axis"], f"{prefix}{name}", keepdims=0)


def _margin(prefix: str) -> Part:
    """The two largest probabilities, times 1 and -1."""
    nodes = [
        helper.make_node(
            "TopK", [f"{prefix}softmax", f"{prefix}two"], [f"{prefix}largest", f"{prefix}of"], name=f"{prefix}largest"
        ),
        _node("MatMul", [f"{prefix}largest", f"{prefix}signs"], f"{prefix}score"),
    ]
    return nodes, [
        _constant(f"{prefix}two", np.array([2])),
        _constant(f"{prefix}signs", np.array([1, -1], np.float32)),
    ]


def _certainty(prefix: str, logits: str, classes: int) -> Part:
    """|1 + sum p log p / log C|: rounding may go below 0, and a threshold of 0 lets all rows leave."""
    nodes = [
        _node("LogSoftmax", [logits], f"{prefix}log", axis=1),
        _node("Mul", [f"{prefix}softmax", f"{prefix}log"], f"{prefix}terms"),
        _node("ReduceSum", [f"{prefix}terms", f"{prefix}class_axis"], f"{prefix}sum", keepdims=0),
        _node("Div", [f"{prefix}sum", f"{prefix}log_classes"], f"{prefix}share"),
        _node("Add", [f"{prefix}share", f"{prefix}one"], f"{prefix}signed"),
        _node("Abs", [f"{prefix}signed"], f"{prefix}score"),
    ]
    log_classes = _constant(f"{prefix}log_classes", np.float32(_log_classes(classes)))
    return nodes, [log_classes, _constant(f"{prefix}one", np.float32(1))]


def _agreement(prefix: str, logits: str, class_before: str | None) -> Part:
    own = _node("ArgMax", [logits], f"{prefix}class", axis=1, keepdims=0)
    if class_before is None:
        return [own, _largest(prefix, "score")], []
    return [
        own,
        _largest(prefix, "probability"),
        _node("Equal", [f"{prefix}class", class_before], f"{prefix}agrees"),
        _node("Cast", [f"{prefix}agrees"], f"{prefix}weight", to=TensorProto.FLOAT),
        _node("Mul", [f"{prefix}probability", f"{prefix}weight"], f"{prefix}score"),
    ], []


def _log_classes(classes: int) -> float:
    return float(np.log(max(classes, 2)))


def _node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs, [output], name=output, **attributes)


def _constant(name: str, value: NDArray[Any] | np.generic) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)
