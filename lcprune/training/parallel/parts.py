"""The part of a network that one process of a layer-parallel training has, and the whole from all parts.

A part is the whole network with empty modules instead of those of other processes, so that the names of weights and the
numbers of layer groups stay the same. Weights are not averaged there.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lcprune.models import Network
from lcprune.models.network import Parts
from lcprune.recipe import Recipe
from lcprune.training.checkpoint import TrainingState
from lcprune.training.optim import build_optimizers

Packed = dict[str, Any]
"""The tensors of a process by the names of the weights, on the CPU."""


def part_of(whole: TrainingState, recipe: Recipe, held: range) -> TrainingState:
    """The layer groups `held`, from 0, and their critics, out of `whole`, which is used up.

    Args:
        whole: Everything, as one process has it.
        recipe: Names the optimizers.
        held: Consecutive groups.
    """
    packed = pack(whole)
    _empty(whole.network, held)
    part = replace(whole, optimizers=build_optimizers(recipe, whole.network))
    unpack([packed], part)
    return part


def pack(state: TrainingState) -> Packed:
    """The tensors of a state, whole or a part, on the CPU."""
    optimizers = [
        {name: _on(optimizer.state[p], "cpu") for name, p in _named(optimizer, state.network) if p in optimizer.state}
        for optimizer in state.optimizers
    ]
    return {"network": pack_network(state.network), "optimizers": optimizers}


def pack_network(network: Network) -> dict[str, Tensor]:
    """The weights and statistics of a network, whole or a part, on the CPU."""
    return _on(network.state_dict(), "cpu")


def unpack(packed: Iterable[Packed], state: TrainingState) -> None:
    """Loads the tensors of processes into a state, whole or a part; tensors of other parts are ignored."""
    for one in packed:
        state.network.load_state_dict(one["network"], strict=False)
        for optimizer, states in zip(state.optimizers, one["optimizers"], strict=False):  # the last part has no critics
            for name, parameter in _named(optimizer, state.network):
                if name in states:  # counters of fused optimizers are where the weight is, too
                    optimizer.state[parameter] = _on(states[name], parameter.device, copy=True)


def gather(state: TrainingState, packed: Iterable[Packed], make: Callable[[], TrainingState]) -> TrainingState:
    """The whole state from packed parts.

    Args:
        state: Any part, for what is the same in all: the step, the seconds.
        packed: The tensors of every process.
        make: A fresh whole state.
    """
    whole = make()
    unpack(packed, whole)
    return replace(state, network=whole.network, optimizers=whole.optimizers)


def _empty(network: Network, held: range) -> None:
    for index, group in enumerate(network.groups):
        if index not in held:
            network.groups[index] = (
                Parts(*(nn.Identity() for _ in group)) if isinstance(group, Parts) else nn.Identity()
            )
    for index in range(len(network.critics)):
        if index not in held:
            network.critics[index] = nn.Identity()


def _named(optimizer: Optimizer, network: Network) -> Iterator[tuple[str, nn.Parameter]]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return ((names[id(p)], p) for group in optimizer.param_groups for p in group["params"])


def _on(values: dict[str, Any], device: Any, copy: bool = False) -> dict[str, Any]:
    return {
        name: value.detach().to(device, copy=copy) if isinstance(value, Tensor) else value
        for name, value in values.items()
    }
