"""Tracing the operations of a module by torch.fx, and which submodule computed which tensor."""

import operator
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lcprune.errors import ModelError

_SIZES = ("size", getattr, operator.getitem)


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
    """Names of modules that were not traced into."""

    def line(self, node: fx.Node) -> str:
        """The line of code that a node was traced from, such as ``net.py:12: n = x.size(0)``; empty if unknown."""
        found = re.findall(r'File "(.*?)", line (\d+), in forward\n(.*)', node.stack_trace or "")
        path, number, code = found[-1] if found else ("", "", "")
        return f"{PurePath(path).name}:{number}: {code.strip()}" if path else ""

    def name(self, node: fx.Node) -> str:
        """The name shown for a node: the shortest that ends in a number, else the shortest."""
        names = [name for name, named in self.named.items() if named is node and name != node.name] or [node.name]
        return min(names, key=lambda name: (not name.rpartition(".")[2].isdecimal(), len(name)))


def record(module: nn.Module, *, children_whole: bool = False, lines: bool = False) -> Graph:
    """The graph of a module, whose mode is left as it was.

    A child is not traced into where its operations depend on its mode (as dropout's do) or on the values of a tensor.

    Args:
        module: With one tensor as input and one as output.
        children_whole: Trace into none of its children.
        lines: Record the lines of code, for `Graph.line`; that takes time.

    Raises:
        ModelError: If its own forward pass cannot be traced.
    """
    whole = {name for name, _ in module.named_children()} if children_whole else set()
    was_training = module.training
    try:
        while True:
            training, evaluating = (_Recorder(module.train(mode), whole, lines) for mode in (True, False))
            keep = training.failed or evaluating.failed or _differs_by_mode(training.nodes, evaluating.nodes)
            if keep is None:
                evaluating.nodes = _sizes_at_their_use(evaluating.nodes)
                return _named(module, evaluating, frozenset(whole))
            whole.add(keep)
    finally:
        module.train(was_training)


class _Recorder(fx.Tracer):
    """Records the operations of a module, and which of its submodules have them as output."""

    def __init__(self, module: nn.Module, whole: set[str], lines: bool) -> None:
        super().__init__()
        self.record_stack_traces = lines
        self.outputs: list[tuple[str, fx.Node]] = []
        self.failed: str | None = None
        """The child that could not be traced; then there are no nodes."""
        self.nodes: tuple[fx.Node, ...] = ()
        self._whole = whole
        try:
            self.nodes = tuple(self.trace(module).nodes)
        except Exception as error:  # a forward pass may raise anything for a proxy
            if self.failed is None:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ModelError(
                    f"the forward pass of {type(module).__name__} cannot be cut: {reason}",
                    "let it call modules and functions of torch with nothing that depends on values, or return an "
                    "nn.Sequential of groups",
                ) from None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_one_layer = next(m.children(), None) is None or isinstance(m, _BatchNorm)  # timm's have an activation
        return is_one_layer or module_qualified_name in self._whole or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        try:
            output = super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or path
            raise
        if isinstance(output, fx.Proxy):
            self.outputs.append((path, output.node))
        return output


def _sizes_at_their_use(nodes: Sequence[fx.Node]) -> tuple[fx.Node, ...]:
    """Reads each batch size from the tensor that it is used with, as in ``x.view(n, -1)``.

    Else it would be needed, from ``n = x.size(0)`` on, beside every hidden layer, and nothing could be cut.
    """
    graph = nodes[0].graph
    for size in filter(_is_batch_size, nodes):
        for user in list(size.users):
            tensor = user.args[0] if user.op == "call_method" and user.args else None
            if isinstance(tensor, fx.Node) and tensor is not size:
                with graph.inserting_before(user):
                    user.replace_input_with(size, graph.call_method("size", (tensor, 0)))
    for node in reversed(nodes):
        if not node.users and node.op in ("call_method", "call_function") and node.target in _SIZES:
            graph.erase_node(node)
    return tuple(graph.nodes)


def _is_batch_size(node: fx.Node) -> bool:
    """Whether it is ``x.size(0)``, ``x.size()[0]`` or ``x.shape[0]``."""
    if node.op == "call_method" and node.target == "size":
        return node.args[1:] == (0,) or node.kwargs == {"dim": 0}
    if node.op != "call_function" or node.target is not operator.getitem or node.args[1] != 0:
        return False
    whole = node.args[0]
    return isinstance(whole, fx.Node) and (whole.target == "size" or whole.args[1:] == ("shape",))


def _differs_by_mode(training: Sequence[fx.Node], evaluating: Sequence[fx.Node]) -> str | None:
    """The module that does something else in training than in evaluation; None where there is none."""
    signatures = [
        [(n.op, str(n.target), str(n.args), str(n.kwargs)) for n in nodes] for nodes in (training, evaluating)
    ]
    if signatures[0] == signatures[1]:
        return None
    own = [_own_operations(nodes) for nodes in (training, evaluating)]
    first = next(i for i, pair in enumerate(zip(*signatures, strict=False)) if pair[0] != pair[1])
    differing = [owner for owner in own[0] | own[1] if own[0][owner] != own[1][owner]]
    owner = max(differing or [_owner(training[first])], key=len)
    if not owner:
        raise ModelError(
            "the module's own forward pass does something else in training than in evaluation",
            "move what depends on self.training, such as F.dropout, into a module of its own, such as nn.Dropout",
        )
    return owner


def _own_operations(nodes: Sequence[fx.Node]) -> defaultdict[str, list[str]]:
    """The operations of each module itself, without those of its children; of operands, those that are no tensors."""
    found = defaultdict(list)
    for node in nodes:
        operands = fx.node.map_arg((node.args, node.kwargs), lambda _: None)
        found[_owner(node)].append(f"{node.op} {node.target} {operands}")
    return found


def _owner(node: fx.Node) -> str:
    """The module whose forward pass has this operation; a call of a module belongs to the caller."""
    callers: list[str] = ["", *(path for path, _ in node.meta.get("nn_module_stack", {}).values())]
    return callers[-2 if node.op == "call_module" else -1]


def _named(module: nn.Module, recorder: _Recorder, whole: frozenset[str]) -> Graph:
    by_path: dict[str, list[fx.Node]] = {}
    for path, node in recorder.outputs:
        by_path.setdefault(path, []).append(node)
    ambiguous = frozenset(path for path, found in by_path.items() if len(found) > 1)
    named = {path: found[0] for path, found in by_path.items() if len(found) == 1}
    data: set[fx.Node] = set()
    for node in recorder.nodes:
        if node.op == "placeholder" or data.intersection(node.all_input_nodes):
            data.add(node)
            named.setdefault(node.name, node)
    return Graph(module, recorder.nodes, named, ambiguous, frozenset(data), whole)
