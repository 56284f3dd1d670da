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
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ThresholdInput = Literal["optional", "required", "none"]


@dataclass(frozen=True)
class _Rows:
    """Names of what one level works on."""

    hidden: str
    taint: str


def stitch(
    stages: Sequence[onnx.ModelProto], thresholds: Sequence[float], threshold_input: ThresholdInput
) -> onnx.ModelProto:
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
    if len(stages) < 2:
        raise ValueError("a progressive model needs an early exit; export main by itself")
    if len(thresholds) != len(stages) - 1:
        raise ValueError(f"{len(stages) - 1} early exits need as many thresholds, not {len(thresholds)}")
    first = stages[0]
    image = first.graph.input[0]
    threshold = numpy_helper.from_array(np.asarray(thresholds, np.float32), "threshold")
    inputs, initializers = [image], [*_constants()]
    if threshold_input != "none":
        inputs.append(helper.make_tensor_value_info("threshold", TensorProto.FLOAT, [len(thresholds)]))
    if threshold_input != "required":
        initializers.append(threshold)
    nodes = [*_taint_nodes(image.name), *_threshold_nodes(len(thresholds))]
    level_nodes, level_initializers = _level(stages, 0, _Rows(image.name, "taint"), ("logits", "exit_index"))
    graph = helper.make_graph(
        [*nodes, *level_nodes],
        "lcprune",
        inputs,
        [stages[-1].graph.output[0], helper.make_tensor_value_info("exit_index", TensorProto.INT64, ["batch"])],
        [*initializers, *level_initializers],
    )
    return helper.make_model(
        graph, opset_imports=first.opset_import, ir_version=first.ir_version, producer_name="lcprune"
    )


def _constants() -> list[TensorProto]:
    return [
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), "pixel_axes"),
        numpy_helper.from_array(np.array([1], np.int64), "class_axis"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
    ]


def _taint_nodes(image: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Mul", [image, "zero"], ["zero_or_nan"]),  # 0 x infinity is NaN
        helper.make_node("ReduceSum", ["zero_or_nan", "pixel_axes"], ["taint"], keepdims=0),
    ]


def _threshold_nodes(count: int) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Split", ["threshold"], [f"threshold.{k}" for k in range(count)], axis=0, num_outputs=count)
    ]


def _level(
    stages: Sequence[onnx.ModelProto], k: int, rows: _Rows, outputs: tuple[str, str]
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    p = f"stage{k}."
    logits, leaving = outputs
    h, l = p + "hidden", p + "logits"
    nodes, inits = inline(stages[k], p, rows.hidden, [h, l])
    mk = helper.make_node
    nodes += [
        mk("Softmax", [l], [p + "softmax"], axis=1),
        mk("ReduceMax", [p + "softmax", "class_axis"], [p + "confidence"], keepdims=0),
        mk("Add", [p + "confidence", rows.taint], [p + "conf_t"]),
        mk("GreaterOrEqual", [p + "conf_t", f"threshold.{k}"], [p + "leaves"]),
        mk("Not", [p + "leaves"], [p + "stays"]),
        mk("NonZero", [p + "stays"], [p + "nz"]),
        mk("Size", [p + "nz"], [p + "count"]),
        mk("Cast", [p + "count"], [p + "any"], to=TensorProto.BOOL),
        mk("Cast", [p + "stays"], [p + "exit"], to=TensorProto.INT64),
    ]
    last = k == len(stages) - 2
    tn = [mk("Transpose", [p + "nz"], [p + "rows"], perm=[1, 0]), mk("GatherND", [h, p + "rows"], [p + "rest_hidden"])]
    ti = []
    if last:
        n, i = inline(stages[k + 1], f"stage{k + 1}.", p + "rest_hidden", [p + "rest_logits"])
        tn += n
        ti += i
        tn += [mk("Identity", [p + "exit"], [p + "then_exit"])]
    else:
        tn += [mk("GatherND", [rows.taint, p + "rows"], [p + "rest_taint"])]
        n, i = _level(stages, k + 1, _Rows(p + "rest_hidden", p + "rest_taint"), (p + "rest_logits", p + "rest_exit"))
        tn += n
        ti += i
        tn += [mk("ScatterND", [p + "exit", p + "rows", p + "rest_exit"], [p + "then_exit"], reduction="add")]
    tn += [mk("ScatterND", [l, p + "rows", p + "rest_logits"], [p + "then_logits"])]
    vi = lambda x, t: onnx.ValueInfoProto(name=x, type=onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=t)))
    tb = helper.make_graph(tn, p + "then", [], [vi(p + "then_logits", 1), vi(p + "then_exit", 7)], ti)
    eb = helper.make_graph(
        [mk("Identity", [l], [p + "else_logits"]), mk("Identity", [p + "exit"], [p + "else_exit"])],
        p + "else",
        [],
        [vi(p + "else_logits", 1), vi(p + "else_exit", 7)],
    )
    nodes.append(mk("If", [p + "any"], list(outputs), then_branch=tb, else_branch=eb))
    return nodes, inits


def inline(model, prefix, inp, outs):
    g = model.graph
    ren = {g.input[0].name: inp} | {o.name: n for o, n in zip(g.output, outs, strict=True)}
    f = lambda n: ren.get(n, prefix + n) if n else n
    nodes = []
    for s in g.node:
        n = onnx.NodeProto()
        n.CopyFrom(s)
        n.name = ""
        n.input[:] = [f(x) for x in s.input]
        n.output[:] = [f(x) for x in s.output]
        nodes.append(n)
    inits = []
    for t in g.initializer:
        c = TensorProto()
        c.CopyFrom(t)
        c.name = f(t.name)
        inits.append(c)
    return nodes, inits
