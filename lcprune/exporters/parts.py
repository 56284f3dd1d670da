"""What the graphs of a progressive model are made of, whatever their layout."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from lcprune.errors import ExportError
from lcprune.exporters.graphs import Part, constant, node
from lcprune.exporters.score_nodes import score_nodes
from lcprune.specs import Criterion


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is stitched."""

    stages: Sequence[ModelProto]
    criterion: Criterion
    temperatures: Sequence[float]

    @property
    def classes(self) -> int:
        """How many values a row of logits has."""
        return int(self.stages[-1].graph.output[-1].type.tensor_type.shape.dim[1].dim_value)

    def reads_image(self, k: int) -> bool:
        """Whether stage `k` reads the image, and not what the stage before it hands over."""
        return reads_image(self.stages, k)

    def reads_image_after(self, k: int) -> bool:
        """Whether a later stage than `k` does."""
        return any(self.reads_image(later) for later in range(k + 1, len(self.stages)))

    def score(self, k: int, class_before: str | None, logits: str | None = None) -> Part:
        """Score of exit `k` for the rows that have reached it; see `score_nodes`.

        Args:
            k: From 0.
            class_before: Name of the classes that the exit before has predicted.
            logits: Their name; ``exit{k}.logits`` if None.
        """
        prefix, temperature = f"exit{k}.", self.temperatures[k]
        logits = logits or f"{prefix}logits"
        return score_nodes(prefix, logits, self.classes, self.criterion, temperature, class_before)


@dataclasses.dataclass(frozen=True)
class Incoming:
    """Names of the inputs of a stage, for the rows that have reached it."""

    hidden: str
    nan_guard: str
    """0 or NaN."""
    classes: str | None = None
    """Classes that the exit before has predicted, where the criterion needs them."""
    image_rows: str | None = None
    """Which images these rows are of, ``(N, 1)``, where a later stage reads the image; None: they are all of them."""


def reads_image(stages: Sequence[ModelProto], k: int) -> bool:
    """Whether stage `k` reads the image: the first one, and those after a stage that hands nothing over."""
    return k == 0 or len(stages[k - 1].graph.output) == 1


def decision(plan: Plan, k: int, incoming: Incoming) -> Part:
    """Stage `k` and who stays after it: ``exit{k}.hidden``, ``exit{k}.logits`` and ``exit{k}.stays`` ``(N,)``."""
    p = f"exit{k}."
    ends = [f"{p}hidden", f"{p}logits"][-len(plan.stages[k].graph.output) :]
    nodes, initializers = inline(plan.stages[k], f"stage{k}.", incoming.hidden, ends)
    score, constants = plan.score(k, incoming.classes)
    nodes += [
        *score,
        node("Add", [f"{p}score", incoming.nan_guard], f"{p}confidence"),
        node("GreaterOrEqual", [f"{p}confidence", f"threshold.{k}"], f"{p}leaves"),
        node("Not", [f"{p}leaves"], f"{p}stays"),
    ]
    return nodes, [*initializers, *constants]


def rows_that_stay(plan: Plan, k: int, image: str, image_rows: str | None) -> tuple[list[NodeProto], str | None]:
    """What stage `k` + 1 reads for the rows that stay, ``exit{k}.rest``, out of ``exit{k}.positions`` ``(1, M)``.

    Args:
        plan: With all stages.
        k: Of the exit, from 0.
        image: Name of the images of all rows.
        image_rows: See `Incoming`.

    Returns:
        The nodes, which give ``exit{k}.rows`` ``(M, 1)`` as well, and `image_rows` of the rows that stay.
    """
    p = f"exit{k}."
    nodes = [node("Transpose", [f"{p}positions"], f"{p}rows", perm=[1, 0])]
    if not plan.reads_image_after(k):
        return [*nodes, node("GatherND", [f"{p}hidden", f"{p}rows"], f"{p}rest")], None
    rows = f"{p}rows"
    if image_rows is not None:
        rows = f"{p}image_rows"
        nodes.append(node("GatherND", [image_rows, f"{p}rows"], rows))
    read = [image, rows] if plan.reads_image(k + 1) else [f"{p}hidden", f"{p}rows"]
    return [*nodes, node("GatherND", read, f"{p}rest")], rows


def nan_guard(image: str) -> Part:
    """``nan_guard`` ``(N,)``: 0 for a row of finite pixels, NaN for any other."""
    nodes = [
        node("ReduceSum", [image, "pixel_axes"], "pixel_sum", keepdims=0),  # not finite if a pixel is not
        node("Mul", ["pixel_sum", "zero"], "nan_guard"),  # 0 x infinity is NaN, too
    ]
    return nodes, [constant("zero", np.float32(0)), constant("pixel_axes", np.array([1, 2, 3]))]


def inline(model: ModelProto, prefix: str, inputs: str, outputs: Sequence[str]) -> Part:
    """Nodes and weights of a stage, every name prefixed, and its ends joined to the names around it.

    Raises:
        ExportError: If the stage branches.
    """
    graph = model.graph
    ends = {graph.input[0].name: inputs, "": ""}  # an empty name is an input left out
    ends |= {value.name: name for value, name in zip(graph.output, outputs, strict=True)}
    nodes, initializers = [], []
    for original in graph.node:
        if any(attribute.HasField("g") for attribute in original.attribute):
            raise ExportError(
                "a layer group branches on its own values", "use layers without control flow in a progressive model"
            )
        copied = NodeProto()
        copied.CopyFrom(original)
        copied.input[:] = [ends.get(name, prefix + name) for name in original.input]
        copied.output[:] = [ends.get(name, prefix + name) for name in original.output]
        copied.name = copied.output[0]
        nodes.append(copied)
    for weight in graph.initializer:
        tensor = TensorProto()
        tensor.CopyFrom(weight)
        tensor.name = prefix + weight.name
        initializers.append(tensor)
    return nodes, initializers
