"""Assigns layer groups to processes."""

import copy
from collections.abc import Sequence
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from lcprune.errors import SetupError
from lcprune.models import Network

_REPEATS = 3


def balanced(costs: Sequence[float], stages: int) -> tuple[range, ...]:
    """Consecutive layer groups for every stage, so that the largest cost of a stage is minimal.

    Args:
        costs: Of every group with its critic, in any unit.
        stages: At most as many as groups.
    """
    ends = ((*inner, len(costs)) for inner in combinations(range(1, len(costs)), stages - 1))
    divided = (tuple(range(a, b) for a, b in pairwise((0, *each))) for each in ends)
    return min(divided, key=lambda held: max(sum(costs[group] for group in groups) for groups in held))


def given(counts: Sequence[int], groups: int, stages: int) -> tuple[range, ...]:
    """Layer groups for every stage, by their number in each.

    Raises:
        SetupError: If there are more or fewer stages or groups.
    """
    if len(counts) != stages or sum(counts) != groups or min(counts) < 1:
        raise SetupError(
            f"{', '.join(map(str, counts))} does not divide {groups} layer groups over {stages} processes",
            f"name {stages} numbers from 1 up that add up to {groups}, or leave it out",
        )
    ends = [sum(counts[:n]) for n in range(stages + 1)]
    return tuple(range(a, b) for a, b in pairwise(ends))


def measured_costs_s(network: Network, images: Tensor) -> list[float]:
    """Mean time of a forward and a backward pass of every group with its critic, in seconds.

    Args:
        network: It is not changed.
        images: A batch, on the network's device.
    """
    costs = []
    with torch.no_grad():
        hidden = network.normalize(images)
    for index, group in enumerate(network.groups):
        parts = copy.deepcopy(nn.Sequential(group, *network.critics[index : index + 1]))
        timer = Timer(
            "parts(hidden).float().square().mean().backward()",
            globals={"parts": parts, "hidden": hidden},
            num_threads=torch.get_num_threads(),
        )
        costs.append(timer.timeit(_REPEATS).mean)
        with torch.no_grad():
            hidden = parts[0](hidden)
    return costs
