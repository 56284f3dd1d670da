"""Weights that several stages have in common, once in the file.

The sizes of a network share its convolutions, each with a normalisation of its own. Folded into float weights, that
makes them different; in int8 a folded channel is the same integers with another step.
"""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, numpy_helper

from lcprune.exporters.graphs import rename, subgraphs

SAME_PCT = 1.0
"""Largest percentage of integers that may differ, by 1: those that a step of another size rounds the other way."""
LEAST_BYTES = 64
"""Smaller weights stay where they are."""


def unify(graph: GraphProto) -> None:
    """Lets int8 weights that are the same but for rounding be the first ones of them."""
    seen: dict[tuple[int, ...], list[tuple[str, NDArray[Any]]]] = {}
    names: dict[str, str] = {}
    kept = []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.INT8 and len(tensor.raw_data) >= LEAST_BYTES:
            values = numpy_helper.to_array(tensor).astype(np.int16)
            alike = seen.setdefault(values.shape, [])
            first = next((name for name, other in alike if _same(values, other)), None)
            if first is not None:
                names[tensor.name] = first
                continue
            alike.append((tensor.name, values))
        kept.append(tensor)
    _keep(graph, kept)
    rename(graph, names)


def share(graph: GraphProto) -> None:
    """Moves weights that a graph and its branches have more than once into the graph itself, once."""
    parts = list(subgraphs(graph))
    counts = Counter(_content(tensor) for part in parts for tensor in part.initializer)
    shared: dict[tuple[Any, ...], TensorProto] = {}
    names: dict[str, str] = {}
    for part in parts:
        kept = []
        for tensor in part.initializer:
            key = _content(tensor)
            if counts[key] == 1 or len(tensor.raw_data) < LEAST_BYTES:
                kept.append(tensor)
            else:
                names[tensor.name] = shared.setdefault(key, _copy(tensor)).name
        _keep(part, kept)
    graph.initializer.extend(shared.values())
    for part in parts:
        rename(part, names)


def _same(values: NDArray[Any], other: NDArray[Any]) -> bool:
    apart = np.abs(values - other)
    return bool(apart.max() <= 1 and 100 * apart.mean() <= SAME_PCT)


def _content(tensor: TensorProto) -> tuple[Any, ...]:
    return (tensor.data_type, tuple(tensor.dims), tensor.raw_data)


def _keep(graph: GraphProto, tensors: list[TensorProto]) -> None:
    copies = [_copy(tensor) for tensor in tensors]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _copy(tensor: TensorProto) -> TensorProto:
    copied = TensorProto()
    copied.CopyFrom(tensor)
    return copied
