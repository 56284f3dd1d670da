"""What graphs of ONNX are made of."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

Part = tuple[list[NodeProto], list[TensorProto]]
"""Nodes, and the constants that they read."""


def node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    """A node with one output, whose name it bears."""
    return helper.make_node(op, inputs, [output], name=output, **attributes)


def constant(name: str, value: NDArray[Any] | np.generic) -> TensorProto:
    """A weight."""
    return numpy_helper.from_array(np.asarray(value), name)


def subgraphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and the branches in it, however deep."""
    yield graph
    for part in graph.node:
        for attribute in part.attribute:
            for branch in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from subgraphs(branch)


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Renames tensors of a graph, its inputs and outputs among them."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
