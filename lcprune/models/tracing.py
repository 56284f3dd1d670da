"""Cutting any module into layer groups: where its main path is a single tensor, and the pieces between such places.

A module is recorded as a graph of operations by torch.fx. A place is a node that every path from the image to the
logits goes through, so that no skip connection passes it by.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.flop_counter import FlopCounterMode

from lcprune.errors import ModelError
from lcprune.models.trunk import Shape

TOLERANCE = 1e-5
"""Largest gap between a module and its composed groups, as a fraction of its largest logit (at least of 1)."""
VIEWS = frozenset(
    ("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split", "narrow")
    + ("getitem", "contiguous", "expand", "select", "unflatten", "movedim", "to", "float", "detach")
)
"""Names of functions and methods whose result may lie in the memory of what they read."""


@dataclass(frozen=True)
class Place:
    """Where a module can be cut."""

    name: str
    """Of the module whose output it is, such as ``features.3``; where it is no module's, the name of the operation."""
    macs: int
    """Multiply-adds before it, for one image."""
    shape: Shape
    """``(C, H, W)`` of the tensor there."""


@dataclass(frozen=True)
class Graph:
    """The operations of a module, in the order in which they run."""

    root: nn.Module
    nodes: tuple[fx.Node, ...]
    named: dict[str, fx.Node]
    """Every name of a node: that of each module that it is the output of, and its own."""
    ambiguous: frozenset[str]
    """Names of modules that are called more than once."""
    data: frozenset[fx.Node]
    """Nodes that depend on the image."""
    whole: frozenset[str]
    """Names of modules that were not looked into."""

    def name(self, node: fx.Node) -> str:
        """The name that a node is called by: the shortest that ends in a number, else the shortest."""
        names = [name for name, named in self.named.items() if named is node and name != node.name] or [node.name]
        return min(names, key=lambda name: (not name.rpartition(".")[2].isdecimal(), len(name)))


@dataclass(frozen=True)
class Cuts:
    """Where a module can be cut, and what it costs."""

    places: tuple[Place, ...]
    macs: int
    """Of the whole module, for one image."""


def record(module: nn.Module, *, children_whole: bool = False) -> Graph:
    """The graph of a module, whose mode is left as it was.

    A child is kept whole where its operations depend on its mode (as dropout's do) or on the values of a tensor.

    Args:
        module: With one tensor as input and one as output.
        children_whole: Look into none of its children.

    Raises:
        ModelError: If its own forward pass cannot be recorded.
    """
    whole = {name for name, _ in module.named_children()} if children_whole else set()
    was_training = module.training
    try:
        while True:
            training, evaluating = _Recorder(whole), _Recorder(whole)
            graphs = [
                _trace(recorder, module.train(mode)) for recorder, mode in ((training, True), (evaluating, False))
            ]
            keep = training.failed or evaluating.failed or _difference(training, evaluating, graphs)
            if keep is None:
                return _named(module, graphs[1], evaluating, frozenset(whole))
            whole.add(keep)
    finally:
        module.train(was_training)


class _Recorder(fx.Tracer):
    """Records operations, who asked for them, and which modules gave them as their output."""

    def __init__(self, whole: set[str]) -> None:
        super().__init__()
        self.outputs: list[tuple[str, fx.Node]] = []
        self.owners: dict[fx.Node, str] = {}
        self.failed: str | None = None
        self._whole = whole
        self._within = [""]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        has_children = next(m.children(), None) is not None
        return (
            not has_children or module_qualified_name in self._whole or super().is_leaf_module(m, module_qualified_name)
        )

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        self._within.append(path)
        try:
            output = super().call_module(m, forward, args, kwargs)
        except Exception:  # what a forward pass raises when it is handed no tensor but a stand-in
            self.failed = self.failed or path
            raise
        finally:
            self._within.pop()
        if isinstance(output, fx.Proxy):
            self.outputs.append((path, output.node))
        return output

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        self.owners[node] = self._within[-2 if node.op == "call_module" else -1]  # a call is the caller's
        return node

    def operations(self, nodes: Sequence[fx.Node], owner: str) -> list[tuple[str, str]]:
        """What a module does itself, without what it lets others do."""
        return [(node.op, str(node.target)) for node in nodes if self.owners[node] == owner]


def _trace(recorder: _Recorder, module: nn.Module) -> list[fx.Node]:
    """The nodes; fewer than all of them where a child could not be looked into, which `recorder` then names."""
    try:
        return list(recorder.trace(module).nodes)
    except Exception as error:  # see above
        if recorder.failed is not None:
            return []
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the forward pass of {type(module).__name__} cannot be cut: {reason}",
            "let it call modules and functions of torch with nothing that depends on values, or give an nn.Sequential "
            "of groups",
        ) from None


def _difference(training: _Recorder, evaluating: _Recorder, graphs: Sequence[Sequence[fx.Node]]) -> str | None:
    """The module that does something else in training than in evaluation; None where there is none."""
    signatures = [[(n.op, str(n.target), str(n.args), str(n.kwargs)) for n in nodes] for nodes in graphs]
    if signatures[0] == signatures[1]:
        return None
    first = next(i for i, pair in enumerate(zip(*signatures, strict=False)) if pair[0] != pair[1])
    owners = (training.owners[graphs[0][first]], evaluating.owners[graphs[1][first]])
    # What one of them does more, or less, puts the operations of the other one elsewhere.
    to_blame = [owner for owner in owners if _differs(owner, (training, evaluating), graphs)]
    owner = max(to_blame or owners, key=len)
    if not owner:
        raise ModelError(
            "the module's own forward pass does something else in training than in evaluation",
            "move what depends on self.training, such as F.dropout, into a module of its own, such as nn.Dropout",
        )
    return owner


def _differs(owner: str, recorders: Sequence[_Recorder], graphs: Sequence[Sequence[fx.Node]]) -> bool:
    """Whether what a module does itself is not the same in both."""
    first, second = (recorder.operations(nodes, owner) for recorder, nodes in zip(recorders, graphs, strict=True))
    return first != second


def _named(module: nn.Module, nodes: Sequence[fx.Node], recorder: _Recorder, whole: frozenset[str]) -> Graph:
    by_path: dict[str, list[fx.Node]] = {}
    for path, node in recorder.outputs:
        by_path.setdefault(path, []).append(node)
    ambiguous = frozenset(path for path, found in by_path.items() if len(found) > 1)
    named = {path: found[0] for path, found in by_path.items() if len(found) == 1}
    data: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or data.intersection(node.all_input_nodes):
            data.add(node)
            named.setdefault(node.name, node)
    return Graph(module, tuple(nodes), named, ambiguous, frozenset(data), whole)


def crossing(graph: Graph) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """Every operation on the image, and the tensors that are needed after it, itself among them where it is."""
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
        ModelError: If the image is too small for the module.
    """
    meter = _Meter(graph, image)
    singles = [node for node, alive in crossing(graph) if alive == [node] and node.op != "placeholder"]
    last: dict[int, fx.Node] = {}
    for node in singles:
        if 0 < meter.macs[node] < meter.total and len(meter.shapes.get(node, ())) == 3:
            last[meter.macs[node]] = node
    places = (Place(graph.name(node), macs, _image_like(meter.shapes[node])) for macs, node in last.items())
    return Cuts(tuple(places), meter.total)


class _Meter(fx.Interpreter):
    """Runs a graph on an image, and takes down shapes and the multiply-adds so far."""

    def __init__(self, graph: Graph, image: Tensor) -> None:
        super().__init__(graph.root.eval(), graph=graph.nodes[0].graph)
        self.macs: dict[fx.Node, int] = {}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        with torch.no_grad(), FlopCounterMode(display=False) as self._counter:
            try:
                self.run(image)
            except RuntimeError as error:
                raise too_small(image, error) from None
        self.total = self.macs[graph.nodes[-1]]

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.macs[n] = self._counter.get_total_flops() // 2
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape[1:])
        return result


def too_small(image: Tensor, error: Exception) -> ModelError:
    """What to say where a trunk cannot read an image."""
    reason = str(error).strip().splitlines()[0]
    size = "x".join(map(str, image.shape[2:]))
    return ModelError(
        f"the trunk cannot read an image of {size}: {reason}", "raise data.image_size, or take another trunk"
    )


def _image_like(shape: Sequence[int]) -> Shape:
    channels, height, width = shape
    return channels, height, width


def balanced(cuts: Cuts, groups: int) -> tuple[str, ...]:
    """The places that make `groups` groups of multiply-adds as equal as can be: the least sum of their squares.

    Raises:
        ModelError: If there are too few places.
    """
    if len(cuts.places) < groups - 1:
        raise ModelError(
            f"{groups} groups need {groups - 1} cuts, but there are {len(cuts.places)} possible places",
            f"set model.groups: {len(cuts.places) + 1} or fewer, or take larger images",
        )
    ends = [0, *(place.macs for place in cuts.places), cuts.macs]
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
    return tuple(cuts.places[index - 1].name for index in best[-1][1])


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
    """The node of that name, where nothing else is needed after it."""
    node = graph.named.get(name)
    if node is None:
        why = "is called more than once" if name in graph.ambiguous else "is no layer of the trunk"
        if inside := [path for path in graph.whole if name.startswith(f"{path}.")]:
            why = f"is inside {inside[0]}, which is kept whole: what it does depends on its mode or on values"
        near = difflib.get_close_matches(name, graph.named, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ModelError(f"model.cuts: {name} {why}", f"{hint}lcprune cuts lists the possible places")
    alive = next((alive for other, alive in crossing(graph) if other is node), [])
    if others := [graph.name(tensor) for tensor in alive if tensor is not node]:
        raise ModelError(
            f"model.cuts: after {name}, the output of {' and of '.join(others)} is needed too: a skip connection "
            "passes the cut by",
            "cut where the skip connection has ended; lcprune cuts lists the possible places",
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
    _write_elsewhere(module)
    return module


def _write_elsewhere(group: fx.GraphModule) -> None:
    """Lets no operation overwrite what the group reads: its critic, and the group before it, need that as it is."""
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
    """Makes the group begin with a copy of what it reads."""
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
    """The shape ``(C, H, W)`` at the end of every group but the last, once the groups compute what the module does.

    Args:
        module: Is left in eval mode, and so are the groups.
        groups: Of the module. One that overwrites what it reads is changed, so that it no longer does.
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
            f"the trunk gives {given} for an image, not {classes} logits", "give its last layer as many outputs"
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
            f"the layer groups do not compute what the trunk does: logits differ by {gap:.1e}",
            "let its forward pass depend on nothing but the image, or give an nn.Sequential of groups",
        )
    return [_readable(shape, index) for index, shape in enumerate(shapes) if index]


def _readable(shape: tuple[int, ...], group: int) -> Shape:
    if len(shape) != 3:
        raise ModelError(
            f"group {group} ends in a tensor of {shape}, but a critic reads (C, H, W)",
            "cut before the hidden layer is flattened; lcprune cuts lists the possible places",
        )
    return _image_like(shape)
