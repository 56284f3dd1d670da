"""What the processes of `benchmarks.parallel` do together; single groups and the link are what
`benchmarks.scaling_model` starts from."""

import copy
import gc
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe
from torch.nn import BatchNorm2d

from benchmarks import memory, networks, steps
from benchmarks.parallel import trainings
from benchmarks.parallel.processes import CPU, counted, far, replicas_of
from benchmarks.provenance import Row
from benchmarks.throughput import BACKPROP, LOCAL_CRITIC, Case
from benchmarks.timing import in_turn, ratio, repeated
from lcprune.recipe import Recipe
from lcprune.training.parallel import Coordinator, ParallelOptions
from lcprune.training.parallel.mesh import ProcessMesh
from lcprune.training.parallel.messages import Receiver, Sender, TensorSpec
from lcprune.training.parallel.placement import balanced
from lcprune.training.step import EagerStep

SAMPLES = 4096
STALENESS = (0, 1)
ALONE, APART = "one process", "two that share nothing"
SCHEDULES = {"GPipe": ScheduleGPipe, "1F1B": Schedule1F1B}
_REPEATS = 3
_MESSAGES = 20
SIZES = (512, 1 << 20, 1 << 24)
"""Bytes of the messages with which a link is measured."""


def speed(mesh: ProcessMesh, case: Case) -> Row:
    """Images/s of two processes over those of one, and of pipelines over backpropagation in one."""
    recipe = case.load(LOCAL_CRITIC)
    group_costs = _agreed_costs(recipe)
    cut = _cut(group_costs, mesh.stages)
    cuts = {"the same cut": cut, "its own cut": _cut(group_costs, mesh.stages, "main_s")}
    if cuts["its own cut"] == cut:
        del cuts["its own cut"]
    turns, sent_bytes = _turns(mesh, case, cut, cuts)
    seconds = in_turn(turns, case.rounds, case.burst)
    cpu_s = _of_everyone({name: each.cpu_s[-case.rounds :] for name, each in turns.items()})
    batch = recipe.data.batch_size
    return {
        **case.about(recipe, "case"),
        "groups_per_rank": list(cut),
        "pipeline_groups_per_rank": {name: list(counts) for name, counts in cuts.items()},
        "group_costs": group_costs,
        "batch_norms": sum(isinstance(part, BatchNorm2d) for part in networks.make_network(recipe, CPU).modules()),
        "bytes_sent_per_step": sent_bytes,
        "layers_over_pipelines": {
            name: ratio(seconds[name], seconds["layers"]) for name in seconds if name.endswith(" cut")
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
    recipe, backprop = (case.load(how) for how in (LOCAL_CRITIC, BACKPROP))
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
        "speedup": ratio(alone_s, seconds[name]),
        "images_per_s": images / statistics.median(seconds[name]),
    }


def delayed(mesh: ProcessMesh, about: tuple[Case, float, Path]) -> Row:
    """Throughput with links that are slow over that without, for every staleness.

    Args:
        mesh: The processes.
        about: A case, the delay of its links, and a folder that all processes reach.
    """
    case, delay, folder = about
    recipe = case.load(LOCAL_CRITIC)
    split = networks.noise(recipe, SAMPLES)
    group_costs = _agreed_costs(recipe)
    cut = _cut(group_costs, mesh.stages)
    turns: dict[str, trainings.Turns] = {}
    sent_bytes: tuple[int, ...] = ()
    for staleness in STALENESS:
        for delay_s in (0.0, delay):
            links = far(folder, f"{case.recipe}-{staleness}-{recipe.data.batch_size}", delay_s)
            turns[f"{staleness} {delay_s}"], sent_bytes = trainings.shared(recipe, split, mesh, cut, staleness, links)
    seconds = in_turn(turns, case.rounds, case.burst)
    rows = [
        {
            "staleness": staleness,
            "delay_ms": 1000 * delay,
            "kept": ratio(seconds[f"{staleness} 0.0"], seconds[f"{staleness} {delay}"]),
            "step_ms": 1000 * statistics.median(seconds[f"{staleness} 0.0"]),
            "delayed_step_ms": 1000 * statistics.median(seconds[f"{staleness} {delay}"]),
        }
        for staleness in STALENESS
    ]
    return {
        **case.about(recipe, "case"),
        "groups_per_rank": list(cut),
        "group_costs": group_costs,
        "bytes_sent_per_step": list(sent_bytes),
        "rows": rows,
    }


def held_bytes(mesh: ProcessMesh, case: Case) -> Row:
    """Most bytes alive at once in a step of each process, and those that it sends, against `backprop` in one."""
    local_critic, backprop = (case.load(how) for how in (LOCAL_CRITIC, BACKPROP))
    alone = [memory.peak_bytes(each, CPU) for each in (backprop, local_critic)] if mesh.rank == 0 else [0, 0]
    gc.collect()
    split = networks.noise(local_critic, local_critic.data.batch_size)
    one_each = (1,) * mesh.world_size
    coordinator = Coordinator(CPU, mesh, ParallelOptions("layers", groups_per_rank=one_each))
    method, state = steps.placed(local_critic, split, coordinator)
    step = EagerStep(method, state.optimizers, CPU, bf16=False)
    images, labels = networks.tensors(local_critic, split, CPU)
    if mesh.rank:
        images = images[:0].clone()
    memory.warm_up(step, state.optimizers, images, labels)
    before = live_bytes()

    def whole_step() -> None:
        step(images, labels, 1)
        coordinator.close()  # a message that ends after the profiler would write into memory that is free by then

    with counted() as sizes:
        peak = before + memory.peak_of(whole_step)
    found = _of_everyone({"peak_bytes": peak, "sent_bytes": sum(sizes)})
    peaks = [each["peak_bytes"] for each in found]
    return {
        **case.about(local_critic, "case"),
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
    return memory.bytes_of(each for each in gc.get_objects() if type(each) in plain and each.device == CPU)


def _agreed_costs(recipe: Recipe) -> list[Row]:
    """By the clock of the first process."""
    agreed = [of_groups(recipe)]
    dist.broadcast_object_list(agreed, src=0)
    return agreed[0]


def _cut(group_costs: Sequence[Row], stages: int, of: str = "local_s") -> tuple[int, ...]:
    """Layer groups of each process, balanced by one of their times."""
    return tuple(map(len, balanced([each[of] for each in group_costs], stages)))


def _of_everyone(own: dict[str, Any]) -> list[dict[str, Any]]:
    """What every process has, by rank."""
    found: list[dict[str, Any]] = [{}] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found


def of_groups(recipe: Recipe) -> list[Row]:
    """Seconds of a batch in every layer group, in one process with one thread, the best of a few.

    ``forward_s`` and ``local_s``, forward and backward, are of the group with its critic, ``main_s`` of it alone.
    """
    network = networks.make_network(recipe, CPU)
    _, shape = networks.SHAPES[recipe.data.source]
    memory_format = networks.memory_format(recipe)
    images = torch.rand(recipe.data.batch_size, *shape).contiguous(memory_format=memory_format)
    with torch.no_grad():
        hidden = network.normalize(images)
    found = []
    for index, group in enumerate(network.groups):
        alone = copy.deepcopy(group)
        both = nn.Sequential(alone, *copy.deepcopy(network.critics[index : index + 1]))
        works = {
            "forward_s": partial(both, hidden),
            "local_s": lambda both=both, hidden=hidden: both(hidden).square().mean().backward(),
            "main_s": lambda alone=alone, hidden=hidden: alone(hidden).square().mean().backward(),
        }
        found.append({name: min(repeated(work)(1) for _ in range(_REPEATS)) for name, work in works.items()})
        with torch.no_grad():
            hidden = alone(hidden)
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
        taken = []
        for step in range(_MESSAGES):
            started = time.perf_counter()
            if mesh.rank == 0:
                sender.send(step, tensor)
                receiver.receive(step)
            else:
                sender.send(step, receiver.receive(step))
            taken.append(time.perf_counter() - started)
        rows.append({"bytes": size, "one_way_s": statistics.median_high(taken) / 2})
        sender.close()
    return rows
