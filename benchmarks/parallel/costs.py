"""What single layer groups cost, and what a link does: what the model of `benchmarks.scaling_model` starts from."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.case import Row
from benchmarks.parallel.ranks import CPU
from benchmarks.timing import repeated
from lcprune.recipe import Recipe
from lcprune.training.parallel.mesh import ProcessMesh
from lcprune.training.parallel.messages import Receiver, Sender, TensorSpec

_REPEATS = 3
_MESSAGES = 20
SIZES = (512, 1 << 20, 1 << 24)
"""Bytes of the messages with which a link is measured."""


@dataclass(frozen=True)
class GroupCost:
    """Seconds of a batch in one layer group, in one process with one thread."""

    forward_s: float
    """Of the group and its critic."""
    local_s: float
    """Forward and backward of the group and its critic."""
    main_s: float
    """Forward and backward of the group alone."""


def of_groups(recipe: Recipe) -> list[GroupCost]:
    """The best of a few, for every layer group."""
    network = networks.make_network(recipe, CPU)
    _, shape = networks.SHAPES[recipe.data.source]
    memory_format = networks.memory_format(recipe)
    images = torch.rand(recipe.data.batch_size, *shape).contiguous(memory_format=memory_format)
    with torch.no_grad():
        hidden = network.normalize(images)
    found = []
    for index, group in enumerate(network.groups):
        critics = [copy.deepcopy(critic) for critic in network.critics[index : index + 1]]
        both = [copy.deepcopy(group), *critics]
        found.append(
            GroupCost(
                forward_s=_best(lambda both=both, hidden=hidden: _forward(both, hidden)),
                local_s=_best(lambda both=both, hidden=hidden: _forward(both, hidden).square().mean().backward()),
                main_s=_best(lambda both=both, hidden=hidden: _forward(both[:1], hidden).square().mean().backward()),
            )
        )
        with torch.no_grad():
            hidden = both[0](hidden)
    return found


def link(mesh: ProcessMesh, _: object = None) -> list[Row]:
    """Seconds of a message from one process to the other and back, by its size."""
    both = [dist.new_group([0, 1]) for _ in range(2)]
    rows = []
    for size in SIZES:
        spec = TensorSpec((size // 4,))
        sends, receives = (both[0], both[1]) if mesh.rank == 0 else (both[1], both[0])
        sender = Sender(mesh, 1 - mesh.rank, sends, spec, 1)
        receiver = Receiver(mesh, 1 - mesh.rank, receives, spec, 1)
        tensor = torch.zeros(size // 4)
        taken = [_there_and_back(mesh.rank, step, tensor, sender, receiver) for step in range(_MESSAGES)]
        rows.append({"bytes": size, "one_way_s": sorted(taken)[len(taken) // 2] / 2})
        sender.close()
    return rows


def _there_and_back(rank: int, step: int, tensor: Tensor, sender: Sender, receiver: Receiver) -> float:
    started = time.perf_counter()
    if rank == 0:
        sender.send(step, tensor)
        receiver.receive(step)
    else:
        sender.send(step, receiver.receive(step))
    return time.perf_counter() - started


def _forward(parts: Sequence[nn.Module], hidden: Tensor) -> Tensor:
    for part in parts:
        hidden = part(hidden)
    return hidden


def _best(work: Callable[[], object]) -> float:
    once = repeated(work)
    return min(once(1) for _ in range(_REPEATS))
