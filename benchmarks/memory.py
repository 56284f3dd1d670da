"""Peak memory of a training step, `local_critic` against `backprop`, by the number of groups; and what it costs.

Memory is counted, not read off the process: the bytes of all tensors that are alive at the same time (weights,
gradients, optimizer state, batch, activations and what the operators need for themselves), as torch's allocator reports
each allocation. The critics are pooled. Time is a ratio to `backprop`, at a smaller batch where the network is large.
"""

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile

from benchmarks import networks, steps
from benchmarks.provenance import Row
from benchmarks.throughput import BACKPROP, LOCAL_CRITIC, ours_in_turn
from benchmarks.timing import ratio
from lcprune.recipe import Recipe
from lcprune.training import precision
from lcprune.training.parallel import Coordinator
from lcprune.training.step import build_step

MODES = {"fast": ("train.memory=fast",), "lean": ("train.memory=lean",)}
BATCH_SIZE, ROUNDS = 128, 5
WARMUP_BATCH = 2
"""Optimizers make their state at the first step, which may be a small one."""


@dataclass(frozen=True)
class Case:
    """A network, the places of its critics for each number of groups, and how its speed is measured."""

    network: str
    recipe: str
    places: tuple[tuple[int, ...], ...]
    """More than the paper's three go where the activations are large, which is early; the last row has all places."""
    limit: float
    """What the least peak may be, over that of backprop."""
    speed_batch_size: int

    def load(self, after: Sequence[int], how: Sequence[str], batch_size: int = BATCH_SIZE) -> tuple[list[str], Recipe]:
        """The recipe with critics at some places, and its overrides."""
        keys = ["critics.head=pooled", f"critics.after={list(after)}", f"data.batch_size={batch_size}", *how]
        return keys, networks.load(self.recipe, keys)


VGG = Case(
    "VGG",
    "vgg_cifar10",
    ((5,), (3, 6), (2, 5, 8), (1, 2, 3, 5, 8), tuple(range(1, 11))),
    limit=0.75,
    speed_batch_size=32,
)
RESNET = Case(
    "ResNet-50",
    "resnet50_cifar10",
    ((7,), (3, 13), (3, 7, 13), (1, 2, 3, 5, 7), (1, 2, 3, 4, 5, 7, 10), tuple(range(1, 16))),
    limit=0.65,
    speed_batch_size=8,
)
CASES = (VGG, RESNET)


def parts(device: torch.device) -> dict[str, dict[str, Callable[[], list[Row]]]]:
    """All cases by name: the bytes of a network in one process, since they are counted; the times each in its own."""
    return {
        "memory": {f"bytes: {case.network}": partial(measure_bytes, case, device) for case in CASES},
        "memory time": {
            f"time: {case.network}, {len(after) + 1} groups": partial(measure_time, case, after, device)
            for case in CASES
            for after in case.places
        },
    }


def measure_bytes(case: Case, device: torch.device, modes: Mapping[str, Sequence[str]] = MODES) -> list[Row]:
    """One row for backprop, and one for each number of groups and each mode."""
    alone, recipe = case.load(case.places[0], BACKPROP)
    reference = peak_bytes(recipe, device)
    rows: list[Row] = [_row(case, 1, alone, peak_bytes=reference, over_backprop=1.0)]
    for after in case.places:
        for mode, how in modes.items():
            overrides, recipe = case.load(after, (*LOCAL_CRITIC, *how))
            peak = peak_bytes(recipe, device)
            about = {"mode": mode, "after": list(after), "peak_bytes": peak, "over_backprop": peak / reference}
            rows.append(_row(case, len(after) + 1, overrides, **about))
    return rows


def measure_time(
    case: Case, after: Sequence[int], device: torch.device, modes: Mapping[str, Sequence[str]] = MODES
) -> list[Row]:
    """One row for each mode: a step over one of backprop."""
    how = {"backprop": BACKPROP, **{mode: (*LOCAL_CRITIC, *keys) for mode, keys in modes.items()}}
    loaded = {name: case.load(after, keys, case.speed_batch_size) for name, keys in how.items()}
    recipes = {name: recipe for name, (_, recipe) in loaded.items()}
    seconds = ours_in_turn(recipes, device, ROUNDS, samples=16 * case.speed_batch_size)
    ratios = {mode: ratio(seconds[mode], seconds["backprop"]) for mode in modes}
    return [_row(case, len(after) + 1, loaded[mode][0], mode=mode, lc_over_bp=ratios[mode]) for mode in modes]


def peak_bytes(recipe: Recipe, device: torch.device) -> int:
    """Most bytes of tensors alive at once in a training step, on the CPU or on a CUDA device."""
    split = networks.noise(recipe, recipe.data.batch_size)
    method, state = steps.placed(recipe, split, Coordinator(device))
    network, optimizers = state.network, state.optimizers
    bf16 = precision.resolve(recipe.train.precision, device) == "bf16"
    step = build_step(method, optimizers, device, bf16=bf16, cuda_graph=False)
    images, labels = networks.tensors(recipe, split, device)
    warm_up(step, optimizers, images[:WARMUP_BATCH], labels[:WARMUP_BATCH])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step(images, labels, 1)
        return torch.cuda.max_memory_allocated(device)
    states = [value for each in optimizers for state in each.state.values() for value in state.values()]
    before = bytes_of([*network.parameters(), *network.buffers(), *filter(torch.is_tensor, states), images, labels])
    return before + peak_of(lambda: step(images, labels, 1))


def warm_up(step: Callable[..., object], optimizers: Iterable[Optimizer], images: Tensor, labels: Tensor) -> None:
    """A first step, in which optimizers make their state; nothing of it is left but that."""
    step(images, labels, 0)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    gc.collect()  # a graph that hangs in a cycle would be counted with the step that frees it


def peak_of(work: Callable[[], object]) -> int:
    """Most bytes of the CPU's tensors that `work` makes and that are alive at once.

    What was allocated before is not counted, nor is its release.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        work()
    results = profiler.profiler
    if results is None or results.kineto_results is None:
        raise ValueError("the profiler gave no events")
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Those of their storages, each counted once."""
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def _row(case: Case, groups: int, overrides: Sequence[str], **measured: object) -> Row:
    about = {"network": case.network, "recipe": case.recipe, "overrides": list(overrides)}
    return {**about, "groups": groups, "limit": case.limit, **measured}
