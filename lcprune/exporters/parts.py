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


def decision(plan: Plan, k: int, incoming: Incoming) -> Part:
    """Stage `k` and who stays after it: ``exit{k}.hidden``, ``exit{k}.logits`` and ``exit{k}.stays`` ``(N,)``."""
    p = f"exit{k}."
    nodes, initializers = inline(plan.stages[k], f"stage{k}.", incoming.hidden, [f"{p}hidden", f"{p}logits"])
    score, constants = plan.score(k, incoming.classes)
    nodes += [
        *score,
        node("Add", [f"{p}score", incoming.nan_guard], f"{p}confidence"),
        node("GreaterOrEqual", [f"{p}confidence", f"threshold.{k}"], f"{p}leaves"),
        node("Not", [f"{p}leaves"], f"{p}stays"),
    ]
    return nodes, [*initializers, *constants]


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
