"""What the processes of `benchmarks.parallel` do together."""

import gc
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe

from benchmarks import memory, networks
from benchmarks.case import Row
from benchmarks.parallel import costs, trainings
from benchmarks.parallel.cases import Case
from benchmarks.parallel.links import Count, far
from benchmarks.parallel.ranks import CPU, replicas_of
from benchmarks.timing import in_turn, ratio
from lcprune.recipe import Recipe
from lcprune.training.parallel import Coordinator, ParallelOptions
from lcprune.training.parallel.mesh import ProcessMesh
from lcprune.training.parallel.placement import balanced
from lcprune.training.step import EagerStep

SAMPLES = 4096
ALONE, APART = "one process", "two that share nothing"
SCHEDULES = {"GPipe": ScheduleGPipe, "1F1B": Schedule1F1B}


@dataclass(frozen=True)
class Distance:
    """A case, and how slow the links are."""

    case: Case
    delay_s: float
    folder: Path
    staleness: tuple[int, ...] = (0, 1)


def speed(mesh: ProcessMesh, case: Case) -> Row:
    """Images/s of two processes over those of one, and of pipelines over backpropagation in one."""
    recipe = networks.load(case.recipe, case.local_critic)
    group_costs = _agreed_costs(recipe)
    cut = _cut(group_costs, mesh.stages)
    cuts = {"the same cut": cut, "its own cut": _lengths(balanced([each.main_s for each in group_costs], mesh.stages))}
    if cuts["its own cut"] == cut:
        del cuts["its own cut"]
    turns, sent_bytes = _turns(mesh, case, cut, cuts)
    seconds = in_turn(turns, case.rounds, case.burst)
    cpu_s = _of_everyone({name: each.cpu_s[-case.rounds :] for name, each in turns.items()})
    batch = recipe.data.batch_size
    return {
        **_about(case, batch),
        "groups_per_rank": list(cut),
        "pipeline_groups_per_rank": {name: list(counts) for name, counts in cuts.items()},
        "group_costs": [asdict(each) for each in group_costs],
        "batch_norms": sum(
            isinstance(part, torch.nn.BatchNorm2d) for part in networks.make_network(recipe, CPU).modules()
        ),
        "bytes_sent_per_step": sent_bytes,
        "layers_over_pipelines": {
            name: asdict(ratio(seconds[name], seconds["layers"])) for name in seconds if name.endswith(" cut")
        },
        "rows": [
            _compared(name, seconds, batch) | {"cpu_s": [statistics.median(each[name] or [0.0]) for each in cpu_s]}
            for name in seconds
        ],
    }


def _turns(
    mesh: ProcessMesh, case: Case, cut: Sequence[int], cuts: Mapping[str, Sequence[int]]
) -> tuple[dict[str, trainings.Turns], dict[str, list[int]]]:
    """All trainings of a case, and the bytes that divided trainings send in a step."""
    recipe, backprop = (networks.load(case.recipe, how) for how in (case.local_critic, case.backprop))
    split = networks.noise(recipe, SAMPLES)
    layers, layers_bytes = trainings.shared(recipe, split, mesh, cut)
    stale, _ = trainings.shared(recipe, split, mesh, cut, staleness=1)
    data, data_bytes = trainings.shared(recipe, split, replicas_of(mesh))
    turns = {
        ALONE: trainings.alone(recipe, split, mesh),
        APART: trainings.alone(recipe, split, mesh, everywhere=True),
        "layers": layers,
        "layers, staleness 1": stale,
        "data": data,
        "backprop": trainings.alone(backprop, split, mesh),
        **{
            f"{name}, {which}": trainings.pipeline(recipe, split, mesh, counts, schedule)
            for which, counts in cuts.items()
            for name, schedule in SCHEDULES.items()
        },
    }
    sent = {"layers": list(layers_bytes), "data": list(data_bytes)}
    return turns, sent


def _compared(name: str, seconds: Mapping[str, list[float]], batch: int) -> Row:
    """A training over one process with the same method."""
    reference = "backprop" if name == "backprop" or name.endswith(" cut") else ALONE
    images = batch * (2 if name == APART else 1)
    alone_s = [each * images / batch for each in seconds[reference]]
    return {
        "side": name,
        "over": reference,
        "speedup": asdict(ratio(alone_s, seconds[name])),
        "images_per_s": images / statistics.median(seconds[name]),
    }


def delayed(mesh: ProcessMesh, about: Distance) -> Row:
    """Throughput with links that are slow over that without, for every staleness."""
    case = about.case
    recipe = networks.load(case.recipe, case.local_critic)
    split = networks.noise(recipe, SAMPLES)
    group_costs = _agreed_costs(recipe)
    cut = _cut(group_costs, mesh.stages)
    turns: dict[str, trainings.Turns] = {}
    sent_bytes: tuple[int, ...] = ()
    for staleness in about.staleness:
        for delay_s in (0.0, about.delay_s):
            links = far(about.folder, f"{case.recipe}-{staleness}-{recipe.data.batch_size}", delay_s)
            turns[f"{staleness} {delay_s}"], sent_bytes = trainings.shared(recipe, split, mesh, cut, staleness, links)
    seconds = in_turn(turns, case.rounds, case.burst)
    rows = [
        {
            "staleness": staleness,
            "delay_ms": 1000 * about.delay_s,
            "kept": asdict(ratio(seconds[f"{staleness} 0.0"], seconds[f"{staleness} {about.delay_s}"])),
            "step_ms": 1000 * statistics.median(seconds[f"{staleness} 0.0"]),
            "delayed_step_ms": 1000 * statistics.median(seconds[f"{staleness} {about.delay_s}"]),
        }
        for staleness in about.staleness
    ]
    batch = recipe.data.batch_size
    return {
        **_about(case, batch),
        "groups_per_rank": list(cut),
        "group_costs": [asdict(each) for each in group_costs],
        "bytes_sent_per_step": list(sent_bytes),
        "rows": rows,
    }


def held_bytes(mesh: ProcessMesh, case: Case) -> Row:
    """Most bytes alive at once in a step of each process, and those that it sends, against `backprop` in one."""
    local_critic, backprop = (networks.load(case.recipe, how) for how in (case.local_critic, case.backprop))
    alone = [memory.peak_bytes(each, CPU) for each in (backprop, local_critic)] if mesh.rank == 0 else [0, 0]
    gc.collect()
    split = networks.noise(local_critic, local_critic.data.batch_size)
    count = Count()
    shape = split.images.shape[1:]
    one_each = (1,) * mesh.world_size
    coordinator = Coordinator(CPU, mesh, ParallelOptions("layers", groups_per_rank=one_each))
    method, state = coordinator.place(
        local_critic,
        trainings.fresh_state(local_critic),
        shape,
        lambda: trainings.fresh_state(local_critic),
        iterations=1,
    )
    step = EagerStep(method, state.optimizers, CPU, bf16=False)
    images = torch.from_numpy(split.images).float().div_(255)
    images = images.contiguous(memory_format=networks.memory_format(local_critic))
    if mesh.rank:
        images = images[:0].clone()
    labels = torch.from_numpy(split.labels)
    step(images, labels, 0)  # optimizers make their state
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
    gc.collect()
    before = live_bytes()

    def whole_step() -> None:
        step(images, labels, 1)
        coordinator.close()  # a message that ends after the profiler would write into memory that is free by then

    with count.counting():
        peak = before + memory.peak_of(whole_step)
    found = _of_everyone({"peak_bytes": peak, "sent_bytes": count.sent_bytes})
    peaks = [each["peak_bytes"] for each in found]
    return {
        **_about(case, local_critic.data.batch_size),
        "groups_per_rank": list(one_each),
        "backprop_bytes": alone[0],
        "local_critic_bytes": alone[1],
        "peak_bytes": peaks,
        "largest_over_backprop": max(peaks) / max(1, alone[0]),
        "sent_bytes": [each["sent_bytes"] for each in found],
        "bytes_sent_per_step": [rank["bytes_sent_per_step"] for rank in coordinator.division()["ranks"]],
    }


def live_bytes() -> int:
    """Bytes of all tensors of this process that Python can reach."""
    plain = (torch.Tensor, torch.nn.Parameter)  # others, such as those that an export leaves behind, have no bytes
    tensors = [each for each in gc.get_objects() if type(each) in plain and each.device == CPU]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())


def _agreed_costs(recipe: Recipe) -> list[costs.GroupCost]:
    """By the clock of the first process."""
    agreed = [costs.of_groups(recipe)]
    dist.broadcast_object_list(agreed, src=0)
    return agreed[0]


def _cut(group_costs: Sequence[costs.GroupCost], stages: int) -> tuple[int, ...]:
    """Layer groups of each process."""
    return _lengths(balanced([each.local_s for each in group_costs], stages))


def _lengths(held: Sequence[range]) -> tuple[int, ...]:
    return tuple(len(groups) for groups in held)


def _of_everyone(own: dict[str, Any]) -> list[dict[str, Any]]:
    """What every process has, by rank."""
    found: list[dict[str, Any]] = [{}] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found


def _about(case: Case, batch_size: int) -> Row:
    return {
        "case": case.name,
        "recipe": case.recipe,
        "overrides": list(case.overrides),
        "batch_size": batch_size,
    }
