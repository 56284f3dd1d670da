"""Peak memory of a training step, `local_critic` against `backprop`, by the number of groups; and what it costs.

Memory is counted, not read off the process: the bytes of all tensors that are alive at the same time (weights,
gradients, optimizer state, batch, activations and what the operators need for themselves), as torch's allocator reports
each allocation. The critics are pooled. Time is a ratio to `backprop`, at a smaller batch where the network is large.
"""

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile

from benchmarks import networks, steps
from benchmarks.case import Row
from benchmarks.throughput import BACKPROP, LOCAL_CRITIC
from benchmarks.timing import Timed, in_turn, ratio
from lcprune.recipe import Recipe
from lcprune.training import precision
from lcprune.training.methods import build_method
from lcprune.training.optim import build_optimizers
from lcprune.training.step import build_step

MODES = {"fast": ("train.memory=fast",), "lean": ("train.memory=lean",)}
BATCH_SIZE = 128
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
    rounds: int

    def overrides(self, after: Sequence[int], batch_size: int = BATCH_SIZE) -> list[str]:
        """Of a recipe with critics at some places."""
        return ["critics.head=pooled", f"critics.after={list(after)}", f"data.batch_size={batch_size}"]


VGG = Case(
    "VGG",
    "vgg_cifar10",
    ((5,), (3, 6), (2, 5, 8), (1, 2, 3, 5, 8), tuple(range(1, 11))),
    limit=0.75,
    speed_batch_size=32,
    rounds=5,
)
RESNET = Case(
    "ResNet-50",
    "resnet50_cifar10",
    ((7,), (3, 13), (3, 7, 13), (1, 2, 3, 5, 7), (1, 2, 3, 4, 5, 7, 10), tuple(range(1, 16))),
    limit=0.65,
    speed_batch_size=8,
    rounds=5,
)
CASES = (VGG, RESNET)


def cases(device: torch.device) -> dict[str, Callable[[], list[Row]]]:
    """All cases by name: the bytes of a network in one process, since they are counted; the times each in its own."""
    counted = {f"bytes: {case.network}": partial(measure_bytes, case, device) for case in CASES}
    timed = {
        f"time: {case.network}, {len(after) + 1} groups": partial(measure_time, case, after, device)
        for case in CASES
        for after in case.places
    }
    return {**counted, **timed}


def measure_bytes(case: Case, device: torch.device, modes: Mapping[str, Sequence[str]] = MODES) -> list[Row]:
    """One row for backprop, and one for each number of groups and each mode."""
    alone = [*case.overrides(case.places[0]), *BACKPROP]
    reference = peak_bytes(networks.load(case.recipe, alone), device)
    rows: list[Row] = [_row(case, 1, alone, peak_bytes=reference, over_backprop=1.0)]
    for after in case.places:
        for mode, how in modes.items():
            overrides = [*case.overrides(after), *LOCAL_CRITIC, *how]
            peak = peak_bytes(networks.load(case.recipe, overrides), device)
            about = {"mode": mode, "after": list(after), "peak_bytes": peak, "over_backprop": peak / reference}
            rows.append(_row(case, len(after) + 1, overrides, **about))
    return rows


def measure_time(
    case: Case, after: Sequence[int], device: torch.device, modes: Mapping[str, Sequence[str]] = MODES
) -> list[Row]:
    """One row for each mode: a step over one of backprop."""
    shared = case.overrides(after, case.speed_batch_size)
    how = {"backprop": BACKPROP, **{mode: (*LOCAL_CRITIC, *keys) for mode, keys in modes.items()}}
    loaded = {name: networks.load(case.recipe, [*shared, *keys]) for name, keys in how.items()}
    split = networks.noise(loaded["backprop"], samples=16 * case.speed_batch_size)
    timed: dict[str, Timed] = {name: steps.Ours(recipe, split, device) for name, recipe in loaded.items()}
    seconds = in_turn(timed, case.rounds)
    return [
        _row(
            case,
            len(after) + 1,
            [*shared, *LOCAL_CRITIC, *keys],
            mode=mode,
            lc_over_bp=asdict(ratio(seconds[mode], seconds["backprop"])),
        )
        for mode, keys in modes.items()
    ]


def peak_bytes(recipe: Recipe, device: torch.device) -> int:
    """Most bytes of tensors alive at once in a training step, on the CPU or on a CUDA device."""
    network = networks.make_network(recipe, device)
    optimizers = build_optimizers(recipe, network)
    bf16 = precision.resolve(recipe.train.precision, device) == "bf16"
    step = build_step(build_method(recipe, network), optimizers, device, bf16=bf16, cuda_graph=False)
    step(*_batch(recipe, WARMUP_BATCH, device), 0)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    images, labels = _batch(recipe, recipe.data.batch_size, device)
    gc.collect()  # a graph that hangs in a cycle would be counted with the step that frees it
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step(images, labels, 1)
        return torch.cuda.max_memory_allocated(device)
    before = _bytes([*network.parameters(), *network.buffers(), *_states(optimizers), images, labels])
    return before + peak_of(lambda: step(images, labels, 1))


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


def _batch(recipe: Recipe, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    split = networks.noise(recipe, samples=size)
    images = torch.from_numpy(split.images).to(device).float().div_(255)
    return images.contiguous(memory_format=networks.memory_format(recipe)), torch.from_numpy(split.labels).to(device)


def _states(optimizers: Iterable[Optimizer]) -> list[Tensor]:
    return [
        value
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def _row(case: Case, groups: int, overrides: Sequence[str], **measured: object) -> Row:
    return {
        "network": case.network,
        "recipe": case.recipe,
        "overrides": list(overrides),
        "groups": groups,
        "limit": case.limit,
        **measured,
    }
