"""Cutting any module into layer groups: at places where its main path is a single tensor.

A place is a node of the module's graph on every path from the image to the logits, so that no skip connection bypasses
it.
"""

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.flop_counter import FlopCounterMode

from lcprune.errors import ModelError
from lcprune.models.tracing import Graph, record
from lcprune.models.trunk import Shape

TOLERANCE = 1e-5
"""Largest gap between a module and its composed groups, as a fraction of its largest logit (at least of 1)."""
VIEWS = frozenset(
    ("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split", "narrow")
    + ("getitem", "contiguous", "expand", "select", "unflatten", "movedim", "to", "float", "detach")
)
"""Names of functions and methods whose result may be a view of their input."""


@dataclass(frozen=True)
class Place:
    """Where a module can be cut."""

    name: str
    """Of the module whose output it is, such as ``features.3``; where it is no module's, the name of the operation."""
    macs: int
    """Multiply-adds before it, for one image."""
    shape: Shape
    """``(C, H, W)`` of the tensor there."""
    in_block: bool = False
    """Whether it is inside of a block, such as an inverted residual, whose end is a place as well."""


@dataclass(frozen=True)
class Cuts:
    """Where a module can be cut, and what it costs."""

    places: tuple[Place, ...]
    macs: int
    """Of the whole module, for one image."""


def crossing(graph: Graph) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """Every operation on the image, and the tensors that are needed after it, its own output included if it is."""
    last_use = {node: index for index, node in enumerate(graph.nodes)}
    for index, node in enumerate(graph.nodes):
        last_use |= dict.fromkeys(node.all_input_nodes, index)
    alive: list[fx.Node] = []
    for index, node in enumerate(graph.nodes):
        if node in graph.data and node.op != "output":
            alive = [tensor for tensor in [*alive, node] if last_use[tensor] > index]
            yield node, alive


def find_cuts(graph: Graph, image: Tensor) -> Cuts:
    """The places where a module can be cut, shallow first, each between two convolutions or linear layers.

    Where several places have the same multiply-adds before them, it is the last one: behind an activation or a pool.

    Args:
        graph: Of the module, which is left in eval mode.
        image: Any, ``(1, C, H, W)``.

    Raises:
        ModelError: If the image is too small for the module, or there is no place.
    """
    meter = _Meter(graph, image)
    singles = [node for node, alive in crossing(graph) if alive == [node] and node.op != "placeholder"]
    last: dict[int, fx.Node] = {}
    for node in singles:
        if 0 < meter.macs[node] < meter.total and node in meter.shapes:
            last[meter.macs[node]] = node
    if not last:
        raise _uncut(graph)
    spans = _block_spans(graph, singles)
    positions = {node: index for index, node in enumerate(graph.nodes)}
    places = tuple(
        Place(graph.name(node), macs, meter.shapes[node], any(start <= positions[node] < end for start, end in spans))
        for macs, node in last.items()
    )
    return Cuts(places, meter.total)


def _block_spans(graph: Graph, places: Sequence[fx.Node]) -> list[tuple[int, int]]:
    """Positions of the first and the last layer of every module, no nn.Sequential, between two of the places."""
    positions = [index for index, node in enumerate(graph.nodes) if node in places]
    spans = []
    for name, module in graph.root.named_modules():
        inside = [at for at, node in enumerate(graph.nodes) if str(node.target).startswith(f"{name}.")]
        if isinstance(module, nn.Sequential) or not inside or not positions:
            continue
        if positions[0] < inside[0] and positions[-1] >= inside[-1]:
            spans.append((inside[0], inside[-1]))
    return spans


def _uncut(graph: Graph) -> ModelError:
    """The error for a module without a place: it names the tensor that passes by the most operations."""
    graph = record(graph.root, lines=True)
    passing = Counter(tensor for node, alive in crossing(graph) for tensor in alive if tensor is not node)
    for node in graph.nodes:  # what makes the next hidden layer bypasses nothing
        if len(node.users) == 1 and node in passing:
            del passing[node]
    if not passing:
        return ModelError("the backbone has too few layers to be cut", "take a deeper one, or write model.groups: 1")
    tensor = max(passing, key=lambda each: passing[each])
    users = [node for node in graph.nodes if node in tensor.users]
    line = f" ({graph.line(users[-1])})" if graph.line(users[-1]) else ""
    return ModelError(
        f"the backbone has no place to cut: the output of {graph.name(tensor)} is needed until "
        f"{graph.name(users[-1])}{line}",
        "let the layers pass one tensor from each to the next, with skip connections inside of blocks",
    )


class _Meter(fx.Interpreter):
    """Runs a graph on an image, and records shapes and the multiply-adds so far."""

    def __init__(self, graph: Graph, image: Tensor) -> None:
        super().__init__(graph.root.eval(), graph=graph.nodes[0].graph)
        self.macs: dict[fx.Node, int] = {}
        self.shapes: dict[fx.Node, Shape] = {}
        """Of tensors that a critic can read."""
        with torch.no_grad(), FlopCounterMode(display=False) as self._counter:
            try:
                self.run(image)
            except (RuntimeError, AssertionError) as error:  # torch._assert of an image's size
                raise too_small(image, error) from None
        self.total = self.macs[graph.nodes[-1]]

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.macs[n] = self._counter.get_total_flops() // 2
        if isinstance(result, Tensor) and result.dim() == 4:
            _, channels, height, width = result.shape
            self.shapes[n] = channels, height, width
        return result


def too_small(image: Tensor, error: Exception) -> ModelError:
    """The error for a backbone that cannot read an image."""
    reason = str(error).strip().splitlines()[0]
    size = "x".join(map(str, image.shape[2:]))
    return ModelError(
        f"the backbone cannot read an image of {size}: {reason}", "raise data.image_size, or use another backbone"
    )


def balanced(cuts: Cuts, groups: int, *, in_blocks: bool) -> tuple[str, ...]:
    """The places that make `groups` groups of multiply-adds as equal as can be: the least sum of their squares.

    Without `in_blocks`, places inside of blocks are left out where there are enough others: the middle of an inverted
    residual is wide, and what narrows it again belongs to it.

    Raises:
        ModelError: If there are too few places.
    """
    if len(cuts.places) < groups - 1:
        raise ModelError(
            f"{groups} groups need {groups - 1} cuts, but there are {len(cuts.places)} possible places",
            f"set model.groups: {len(cuts.places) + 1} or fewer, or take larger images",
        )
    at_ends = tuple(place for place in cuts.places if in_blocks or not place.in_block)
    places = at_ends if len(at_ends) >= groups - 1 else cuts.places
    ends = [0, *(place.macs for place in places), cuts.macs]
    # best[i]: the least sum of squares of the groups up to place i, and the places before it
    best: list[tuple[int, tuple[int, ...]]] = [(end**2, ()) for end in ends]
    for _ in range(groups - 1):
        best = [
            min(
                ((best[j][0] + (end - ends[j]) ** 2, (*best[j][1], j)) for j in range(1, i)),
                default=(ends[-1] ** 2 * groups, ()),
            )
            for i, end in enumerate(ends)
        ]
    return tuple(places[index - 1].name for index in best[-1][1])


def split(graph: Graph, cuts: Sequence[str]) -> list[fx.GraphModule]:
    """The layer groups of a module, which share its weights and keep their names.

    Args:
        graph: Of the module.
        cuts: Names of places, shallow first.

    Raises:
        ModelError: If a cut is no place: it has no such name, or a skip connection passes it by, or layers before and
            after it share weights.
    """
    edges = [-1, *(graph.nodes.index(_place(graph, name)) for name in cuts), len(graph.nodes) - 1]
    if edges != sorted(set(edges)):
        raise ModelError(
            f"model.cuts: {', '.join(cuts)} are not in the order of the network", "write each once, shallow first"
        )
    groups = [_part(graph, start, end) for start, end in pairwise(edges)]
    _refuse_shared_weights(groups, cuts)
    return groups


def _place(graph: Graph, name: str) -> fx.Node:
    """The node of that name; it must be the only tensor that later operations need."""
    node = graph.named.get(name)
    if node is None:
        why = "is called more than once" if name in graph.ambiguous else "is no layer of the backbone"
        if inside := [path for path in graph.whole if name.startswith(f"{path}.")]:
            why = f"is inside {inside[0]}, which cannot be cut: what it computes depends on its mode or on values"
        near = difflib.get_close_matches(name, graph.named, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ModelError(f"model.cuts: {name} {why}", f"{hint}lcprune cuts lists the possible places")
    alive = next((alive for other, alive in crossing(graph) if other is node), [])
    if others := [graph.name(tensor) for tensor in alive if tensor is not node]:
        raise ModelError(
            f"model.cuts: after {name}, the output of {' and of '.join(others)} is needed too: a skip connection "
            "bypasses the cut",
            "cut after the end of the skip connection; lcprune cuts lists the possible places",
        )
    following = graph.nodes[graph.nodes.index(node) + 1 :]
    if node.op == "placeholder" or not any(other.op != "output" for other in following):
        raise ModelError(f"model.cuts: nothing is left on one side of {name}", "lcprune cuts lists the possible places")
    return node


def _part(graph: Graph, start: int, end: int) -> fx.GraphModule:
    """The operations after node `start` up to and with node `end`, as a module of one tensor."""
    piece = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    if start >= 0:
        copies[graph.nodes[start]] = piece.placeholder("hidden")

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:  # or something constant, made by an earlier group
            copies[node] = piece.node_copy(node, copied)
        return copies[node]

    for node in graph.nodes[start + 1 : end + 1]:
        if node in graph.data:
            copied(node)
    if graph.nodes[end].op != "output":
        piece.output(copies[graph.nodes[end]])
    module = fx.GraphModule(graph.root, piece, class_name="Group")
    _avoid_in_place(module)
    return module


def _avoid_in_place(group: fx.GraphModule) -> None:
    """Makes no operation overwrite the group's input in place: the critic and the group before it need it unchanged."""
    read = {node for node in group.graph.nodes if node.op == "placeholder"}
    for node in group.graph.nodes:
        if not read.intersection(node.all_input_nodes):
            continue
        layer: Any = group.get_submodule(str(node.target)) if node.op == "call_module" else None
        if layer is not None and getattr(layer, "inplace", False):
            layer.inplace = False
        elif node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
        elif isinstance(layer, nn.Identity | nn.Flatten | _DropoutNd) or _name_of(node) in VIEWS:
            read.add(node)
    group.recompile()


def _name_of(node: fx.Node) -> str:
    return "" if node.op == "call_module" else getattr(node.target, "__name__", str(node.target))


def _clone_input(group: fx.GraphModule) -> None:
    """Makes the group begin with a copy of its input."""
    graph = group.graph
    entrance = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(entrance):
        clone = graph.call_function(torch.clone, (entrance,))
    entrance.replace_all_uses_with(clone, delete_user_cb=lambda user: user is not clone)
    group.recompile()


def _refuse_shared_weights(groups: Sequence[nn.Module], cuts: Sequence[str]) -> None:
    seen: dict[int, int] = {}
    for index, group in enumerate(groups):
        for name, parameter in group.named_parameters():
            if seen.setdefault(id(parameter), index) != index:
                raise ModelError(
                    f"model.cuts: {name} is used before and after {cuts[index - 1]}",
                    "cut where the layers on both sides have weights of their own",
                )


@torch.no_grad()
def check(module: nn.Module, groups: Sequence[fx.GraphModule], image: Tensor, classes: int) -> list[Shape]:
    """The shape ``(C, H, W)`` at the end of every group but the last; the groups must compute what the module does.

    Args:
        module: Is left in eval mode, and so are the groups.
        groups: Of the module. One that overwrites its input is changed to work on a copy.
        image: Any, ``(1, C, H, W)``.
        classes: Number of logits.

    Raises:
        ModelError: If they compute something else, or a critic cannot read the end of a group.
    """
    try:
        expected = module.eval()(image)
    except RuntimeError as error:
        raise too_small(image, error) from None
    if not isinstance(expected, Tensor) or expected.shape != (1, classes):
        given = tuple(expected.shape[1:]) if isinstance(expected, Tensor) else type(expected).__name__
        raise ModelError(
            f"the backbone computes {given} for an image, not {classes} logits", "give its last layer as many outputs"
        )
    hidden, shapes = image, []
    for group in groups:
        shapes.append(tuple(hidden.shape[1:]))
        read = hidden.clone()
        version = read._version
        hidden = group.eval()(read)
        if read._version != version:
            _clone_input(group)
    gap, largest = float((hidden - expected).abs().max()), float(expected.abs().max())
    if not gap <= TOLERANCE * max(1.0, largest):
        raise ModelError(
            f"the layer groups do not compute what the backbone does: logits differ by {gap:.1e}",
            "let its forward pass depend on the image only, or return an nn.Sequential of groups",
        )
    return [_readable(shape, index) for index, shape in enumerate(shapes) if index]


def _readable(shape: tuple[int, ...], group: int) -> Shape:
    if len(shape) != 3:
        raise ModelError(
            f"group {group} ends in a tensor of {shape}, but a critic reads (C, H, W)",
            "cut before the hidden layer is flattened; lcprune cuts lists the possible places",
        )
    channels, height, width = shape
    return channels, height, width
