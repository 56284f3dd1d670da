"""The exits of a progressive model without branches: the rows that stay get fewer, down to none.

A stage on no rows costs next to nothing, and every operator that the stages are made of takes them. Each exit::

    rows = where stays                                          (M, 1)
    stage k + 1 on hidden[rows]
    logits[rows], exit_index[rows] = what comes of these rows

Nothing is an `If`, so that tools that do not look into branches see the whole network. But the shapes follow the
images.
"""

from onnx import NodeProto, TensorProto

from lcprune.exporters.graphs import Part, node
from lcprune.exporters.parts import Incoming, Plan, decision, inline, rows_that_stay


def flat_exits(plan: Plan, image: str) -> Part:
    """All stages and exits; gives ``logits`` and ``exit_index``, takes `image`, ``nan_guard`` and ``threshold.k``."""
    last = len(plan.stages) - 1
    nodes, initializers, incoming = [], [], Incoming(image, "nan_guard")
    for k in range(last):
        of_exit, weights = decision(plan, k, incoming)
        compressed, incoming = _compress(plan, k, image, incoming)
        nodes += [*of_exit, *compressed]
        initializers += weights
    main, weights = inline(plan.stages[last], f"stage{last}.", incoming.hidden, [f"exit{last}.logits"])
    nodes += main
    for k in reversed(range(last)):
        nodes += _scatter(k, innermost=k == last - 1)
    return nodes, [*initializers, *weights]


def _compress(plan: Plan, k: int, image: str, incoming: Incoming) -> tuple[list[NodeProto], Incoming]:
    """What the next stage gets of the rows that stay."""
    p, last = f"exit{k}.", len(plan.stages) - 2
    kept = {}
    if k < last:  # main decides nothing
        kept[incoming.nan_guard] = f"{p}rest_nan_guard"
    if k < last and plan.criterion == "agreement":
        kept[f"{p}class"] = f"{p}rest_class"
    rest, image_rows = rows_that_stay(plan, k, image, incoming.image_rows)
    nodes = [
        node("NonZero", [f"{p}stays"], f"{p}positions"),  # (1, M)
        *rest,
        *(node("GatherND", [whole, f"{p}rows"], rest) for whole, rest in kept.items()),
    ]
    classes = kept.get(f"{p}class")
    return nodes, Incoming(f"{p}rest", kept.get(incoming.nan_guard, ""), classes, image_rows)


def _scatter(k: int, innermost: bool) -> list[NodeProto]:
    """The logits of the rows that stay, and how many exits further on each row leaves, put back where they belong."""
    p, deeper = f"exit{k}.", f"exit{k + 1}."
    logits, exits = ("logits", "exit_index") if k == 0 else (f"{p}all_logits", f"{p}exits")
    found = f"{deeper}logits" if innermost else f"{deeper}all_logits"
    scatter = node("ScatterND", [f"{p}logits", f"{p}rows", found], logits)
    if innermost:
        return [scatter, node("Cast", [f"{p}stays"], exits, to=TensorProto.INT64)]
    return [
        scatter,
        node("Cast", [f"{p}stays"], f"{p}one_further", to=TensorProto.INT64),
        node("ScatterND", [f"{p}one_further", f"{p}rows", f"{deeper}exits"], exits, reduction="add"),
    ]
