"""What one process of a layer-parallel training holds of a network, and the whole again.

A part is the whole network with empty modules in place of what other processes hold: names of weights, optimizers and
everything that goes by the number of a layer group stay as they are. Weights are not averaged there.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lcprune.models import Network
from lcprune.models.network import Parts
from lcprune.recipe import Recipe
from lcprune.training.checkpoint import TrainingState
from lcprune.training.optim import build_optimizers

Packed = dict[str, Any]
"""What a process holds, by the names of the weights: tensors on the CPU, to be sent."""


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
    return {
        "network": _on_cpu(state.network.state_dict()),
        "optimizers": [_by_name(optimizer, state.network) for optimizer in state.optimizers],
    }


def unpack(packed: Iterable[Packed], state: TrainingState) -> None:
    """Puts what processes hold into a state of its own, whole or a part; what `state` has no place for is left out."""
    for one in packed:
        _load(state.network, one["network"])
        for optimizer, states in zip(state.optimizers, one["optimizers"], strict=False):  # the last part has no critics
            for name, parameter in _named(optimizer, state.network):
                if name in states:
                    optimizer.state[parameter] = _like(states[name], parameter)


def gather(state: TrainingState, packed: Iterable[Packed], make: Callable[[], TrainingState]) -> TrainingState:
    """The whole of parts that were packed.

    Args:
        state: Any part, for what all have alike: the step, the seconds.
        packed: What every process holds.
        make: A fresh whole state.
    """
    whole = make()
    unpack(packed, whole)
    return replace(
        whole,
        step=state.step,
        seconds=state.seconds,
        best_accuracy_pct=state.best_accuracy_pct,
        retries=state.retries,
    )


def _empty(network: Network, held: range) -> None:
    for index, group in enumerate(network.groups):
        if index not in held:
            network.groups[index] = (
                Parts(*(nn.Identity() for _ in group)) if isinstance(group, Parts) else nn.Identity()
            )
    for index in range(len(network.critics)):
        if index not in held:
            network.critics[index] = nn.Identity()


def _load(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copies the tensors that `module` has too."""
    own = module.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name in own:
                own[name].copy_(tensor)


def _named(optimizer: Optimizer, network: Network) -> list[tuple[str, nn.Parameter]]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [(names[id(p)], p) for group in optimizer.param_groups for p in group["params"]]


def _by_name(optimizer: Optimizer, network: Network) -> dict[str, dict[str, Any]]:
    return {name: _on_cpu(optimizer.state[p]) for name, p in _named(optimizer, network) if p in optimizer.state}


def _on_cpu(tensors: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else value for name, value in tensors.items()
    }


def _like(state: dict[str, Any], parameter: nn.Parameter) -> dict[str, Any]:
    """An optimizer's state of one weight where that weight lies; counters of fused ones lie there too."""
    return {
        name: value.to(parameter.device).clone() if isinstance(value, Tensor) else value
        for name, value in state.items()
    }
