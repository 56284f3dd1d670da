"""Which process holds which layer groups."""

import copy
import time
from collections.abc import Sequence
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn

from lcprune.errors import SetupError
from lcprune.models import Network

_REPEATS = 3


def balanced(costs: Sequence[float], stages: int) -> tuple[range, ...]:
    """Consecutive layer groups for every stage, so that the costliest one costs least.

    Args:
        costs: Of every group with its critic, in any unit.
        stages: At most as many as groups.
    """
    ends = ((*inner, len(costs)) for inner in combinations(range(1, len(costs)), stages - 1))
    divided = (tuple(range(a, b) for a, b in pairwise((0, *each))) for each in ends)
    return min(divided, key=lambda held: max(sum(costs[group] for group in groups) for groups in held))


def given(counts: Sequence[int], groups: int, stages: int) -> tuple[range, ...]:
    """The division that a user asks for: how many consecutive groups each stage has.

    Raises:
        SetupError: If these are not so many stages and groups.
    """
    if len(counts) != stages or sum(counts) != groups or min(counts) < 1:
        raise SetupError(
            f"{', '.join(map(str, counts))} does not divide {groups} layer groups over {stages} processes",
            f"name {stages} numbers from 1 up that add up to {groups}, or leave it out",
        )
    ends = [sum(counts[:n]) for n in range(stages + 1)]
    return tuple(range(a, b) for a, b in pairwise(ends))


def measured_costs_s(network: Network, images: Tensor) -> list[float]:
    """Time of a forward and a backward pass of every group with its critic, in seconds: the best of a few.

    Args:
        network: Left as it is.
        images: A batch, on the network's device.
    """
    costs = []
    with torch.no_grad():
        hidden = network.normalize(images)
    for index, group in enumerate(network.groups):
        parts = [copy.deepcopy(group), *(copy.deepcopy(critic) for critic in network.critics[index : index + 1])]
        costs.append(min(_pass_s(parts, hidden) for _ in range(_REPEATS)))
        with torch.no_grad():
            hidden = parts[0](hidden)
    return costs


def _pass_s(parts: Sequence[nn.Module], hidden: Tensor) -> float:
    _wait_for(hidden)
    started = time.perf_counter()
    output = hidden
    for part in parts:
        output = part(output)
    output.float().square().mean().backward()
    _wait_for(hidden)
    return time.perf_counter() - started


def _wait_for(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
