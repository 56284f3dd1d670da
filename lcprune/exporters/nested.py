"""The exits of a progressive model as branches, for any number of images; every row leaves by itself.

Each stage but the last ends in an exit. The rows that do not leave are gathered, an ``If`` runs the next stage on
them alone, and the results are scattered back::

    stage 0 -> hidden, logits                                   (N, ...), (N, classes)
    stays = not (score(logits) + nan_guard >= threshold)        (N,)
    rows = where stays                                          (M, 1)
    if M > 0: logits[rows], exit_index[rows] = stage 1 on hidden[rows], and so on

The weights of a stage lie inside its branch: in an outer graph onnxruntime would not lay them out for its fast
convolutions. The graph is as small as it is because every node costs a microsecond for every row, however small the
network.
"""

from onnx import GraphProto, NodeProto, TensorProto, helper

from lcprune.exporters.graphs import Part, node
from lcprune.exporters.parts import Incoming, Plan, decision, inline, rows_that_stay


def nested_exits(plan: Plan, image: str) -> Part:
    """All stages and exits; gives ``logits`` and ``exit_index``, takes `image`, ``nan_guard`` and ``threshold.k``."""
    return _exit(plan, 0, image, Incoming(image, "nan_guard"), ("logits", "exit_index"))


def _exit(plan: Plan, k: int, image: str, incoming: Incoming, outputs: tuple[str, str]) -> Part:
    """Stage `k`, its exit, and in a branch everything after it.

    Args:
        plan: With all stages.
        k: Of the stage, from 0.
        image: Name of the images of all rows.
        incoming: What it works on.
        outputs: Names of the logits, and of how many exits further on each row left.
    """
    p = f"exit{k}."
    nodes, initializers = decision(plan, k, incoming)
    nodes += [
        node("NonZero", [f"{p}stays"], f"{p}positions"),  # (1, M)
        node("Size", [f"{p}positions"], f"{p}count"),
        node("Cast", [f"{p}count"], f"{p}any", to=TensorProto.BOOL),
    ]
    branches = {
        "then_branch": _then_branch(plan, k, image, incoming),
        "else_branch": _else_branch(p, incoming.nan_guard),
    }
    nodes.append(helper.make_node("If", [f"{p}any"], outputs, name=f"{p}if", **branches))
    return nodes, initializers


def _then_branch(plan: Plan, k: int, image: str, incoming: Incoming) -> GraphProto:
    """Some rows stay: the rest of the network for them."""
    p = f"exit{k}."
    nodes, image_rows = rows_that_stay(plan, k, image, incoming.image_rows)
    if k == len(plan.stages) - 2:  # then comes main, where all of them leave
        rest, initializers = inline(plan.stages[k + 1], f"stage{k + 1}.", f"{p}rest", [f"{p}rest_logits"])
        exits = [node("Cast", [f"{p}stays"], f"{p}then_exit", to=TensorProto.INT64)]
    else:
        nodes.append(node("GatherND", [incoming.nan_guard, f"{p}rows"], f"{p}rest_nan_guard"))
        classes = None
        if plan.criterion == "agreement":
            classes = f"{p}rest_class"
            nodes.append(node("GatherND", [f"{p}class", f"{p}rows"], classes))
        names = f"{p}rest_logits", f"{p}rest_exit"
        following = Incoming(f"{p}rest", f"{p}rest_nan_guard", classes, image_rows)
        rest, initializers = _exit(plan, k + 1, image, following, names)
        exits = [
            node("Cast", [f"{p}stays"], f"{p}one_further", to=TensorProto.INT64),
            node("ScatterND", [f"{p}one_further", f"{p}rows", f"{p}rest_exit"], f"{p}then_exit", reduction="add"),
        ]
    scatter = node("ScatterND", [f"{p}logits", f"{p}rows", f"{p}rest_logits"], f"{p}then_logits")
    return _branch(f"{p}then", [*nodes, *rest, *exits, scatter], initializers)


def _else_branch(p: str, nan_guard: str) -> GraphProto:
    """All rows leave: their NaN guard is 0, and so is the number of exits that they go on."""
    logits = node("Identity", [f"{p}logits"], f"{p}else_logits")  # a branch may not return what lies outside
    return _branch(f"{p}else", [logits, node("Cast", [nan_guard], f"{p}else_exit", to=TensorProto.INT64)], [])


def _branch(name: str, nodes: list[NodeProto], initializers: list[TensorProto]) -> GraphProto:
    outputs = [
        helper.make_tensor_value_info(f"{name}_logits", TensorProto.FLOAT, None),
        helper.make_tensor_value_info(f"{name}_exit", TensorProto.INT64, None),
    ]
    return helper.make_graph(nodes, name, [], outputs, initializers)
