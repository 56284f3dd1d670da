"""The trainings that take turns in two processes: in one of them, in both, or a pipeline of backpropagation.

All processes call the same trainings in the same order. A few steps go by before those that count, so that the
processes are in step with each other; the time is that of the slowest process.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage

from benchmarks import networks, steps
from benchmarks.parallel.processes import CPU
from benchmarks.timing import repeated
from lcprune.data.sources import Split
from lcprune.recipe import Recipe
from lcprune.training.parallel import Coordinator, ParallelOptions
from lcprune.training.parallel.mesh import ProcessMesh

FIRST_STEPS = 2
"""Of a turn, that do not count."""
MICRO_BATCHES = 4
Laps = Callable[[Sequence[int]], list[float]]
"""Trains for the sum of the steps in one go and says how many seconds each stretch took."""


@dataclass
class Turns:
    """A `Timed` training of several processes."""

    laps: Laps | None
    """What this process does; None: it waits."""
    cpu_s: list[float] = field(default_factory=list)
    """CPU time of a step of this process, turn by turn."""

    def __call__(self, count: int) -> float:
        """See `Timed`; the same answer in every process."""
        dist.barrier()
        taken, cpu = 0.0, time.process_time()
        if self.laps is not None:
            taken = self.laps([FIRST_STEPS, count])[-1]
            self.cpu_s.append((time.process_time() - cpu) / (FIRST_STEPS + count))
        everyone = torch.tensor([taken], dtype=torch.float64)
        dist.all_reduce(everyone, dist.ReduceOp.MAX)
        return float(everyone)


def alone(recipe: Recipe, split: Split, mesh: ProcessMesh, everywhere: bool = False) -> Turns:
    """A training in the first process; or one in each, which know nothing of each other."""
    return Turns(steps.Ours(recipe, split, Coordinator(CPU)).laps if everywhere or mesh.rank == 0 else None)


def shared(
    recipe: Recipe,
    split: Split,
    mesh: ProcessMesh,
    groups_per_rank: Sequence[int] = (),
    staleness: int = 0,
    links: AbstractContextManager[None] | None = None,
) -> tuple[Turns, tuple[int, ...]]:
    """A training in all processes, as the mesh says, and the bytes that each stage sends in a step.

    Args:
        recipe: What to train.
        split: Images and labels.
        mesh: How the processes share the work.
        groups_per_rank: See `lcprune train`.
        staleness: See `lcprune train`.
        links: Inside, the processes are connected.
    """
    coordinator = Coordinator(CPU, mesh, ParallelOptions(staleness=staleness, groups_per_rank=tuple(groups_per_rank)))
    with links or nullcontext():
        ours = steps.Ours(recipe, split, coordinator)
    return Turns(ours.laps), coordinator.bytes_sent_per_step


def pipeline(recipe: Recipe, split: Split, mesh: ProcessMesh, groups_per_rank: Sequence[int], schedule: type) -> Turns:
    """Backpropagation through main by `torch.distributed.pipelining`, with 4 micro-batches.

    Args:
        recipe: Whose network it is; its critics stay away.
        split: Images and labels.
        mesh: One stage in each process.
        groups_per_rank: Consecutive layer groups of each.
        schedule: Such as `ScheduleGPipe`.
    """
    network = networks.make_network(recipe, CPU)
    start = sum(groups_per_rank[: mesh.rank])
    train = recipe.train
    first: nn.Module = _Permuted(train.channels_last, 0, 3, 1, 2) if mesh.rank else network.normalize
    last = _Permuted(train.channels_last and mesh.rank < mesh.world_size - 1, 0, 2, 3, 1)
    own = nn.Sequential(first, *network.groups[start : start + groups_per_rank[mesh.rank]], last)
    optimizer = steps.sgd(recipe, own, fused=True)
    stage = PipelineStage(own, mesh.rank, mesh.world_size, CPU)
    run = schedule(stage, MICRO_BATCHES, loss_fn=partial(F.cross_entropy, label_smoothing=train.label_smoothing))
    loader = steps.loader_of(recipe, split, Coordinator(CPU))
    done = 0

    def step() -> None:
        nonlocal done
        optimizer.zero_grad(set_to_none=True)
        if mesh.rank == 0:
            run.step(loader.batch(done)[0], return_outputs=False)
        elif mesh.rank == mesh.world_size - 1:
            losses: list[Tensor] = []
            run.step(target=loader.labels(done), losses=losses, return_outputs=False)
        else:
            run.step(return_outputs=False)
        optimizer.step()
        done += 1

    return Turns(lambda stretches: [repeated(step)(count) for count in stretches])


class _Permuted(nn.Module):
    """Between stages channels_last travels as what it is in memory, because only contiguous tensors can be sent."""

    def __init__(self, applies: bool, *order: int) -> None:
        super().__init__()
        self._order = order if applies else ()

    def forward(self, hidden: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, H, W, C)``, or back."""
        return hidden.permute(self._order) if self._order else hidden
