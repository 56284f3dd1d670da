"""Cost of a training step of local critic training against one of backpropagation on the same trunk.

    python -m benchmarks.train_step [--json] [--recipe NAME] [--set KEY=VALUE ...] [--repeats N]

A step is forward, backward and the optimizers, on one batch of noise. Both methods run in one process and take turns;
figures are medians. The limit is 1.10 x (MACs of groups and critics / MACs of groups).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from benchmarks.provenance import provenance
from lcprune import recipe
from lcprune.analysis.profile import profile
from lcprune.models import build
from lcprune.recipe import Recipe
from lcprune.training.methods import build_method
from lcprune.training.optim import build_optimizers

SMALL = "vgg_cifar10_small"
IMAGES = {"digits": (10, (1, 8, 8)), "cifar10": (10, (3, 32, 32)), "cifar100": (100, (3, 32, 32))}
OVERHEAD = 1.10
WARMUP = 3

Step = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """One recipe: what a step of each method takes, and what the work alone would explain."""

    recipe: str
    overrides: list[str]
    batch_size: int
    lc_ms: float
    bp_ms: float
    lc_over_bp: float
    lc_over_bp_quartiles: list[float]
    """Of the ratios round by round."""
    mac_ratio: float
    limit: float
    met: bool


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table or, with ``--json``, one JSON object."""
    options = _parse(arguments)
    device = torch.device(options.device)
    rows = [_measure(name, overrides, options.repeats, device) for name, overrides in _cases(options)]
    if options.json:
        print(json.dumps(_report(rows, options, device)))
        return
    for row in rows:
        print(
            f"{' '.join([row.recipe, *row.overrides])}, batch {row.batch_size}\n"
            f"  local_critic {row.lc_ms:.1f} ms, backprop {row.bp_ms:.1f} ms a step: {row.lc_over_bp:.3f}"
            f" (quartiles {row.lc_over_bp_quartiles[0]:.3f} to {row.lc_over_bp_quartiles[1]:.3f})\n"
            f"  MACs {row.mac_ratio:.3f}, limit {row.limit:.3f}: {'met' if row.met else 'NOT met'}"
        )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--recipe", help="measure this recipe alone")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--repeats", type=int, default=10, help="rounds, each with two steps of each method")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def _cases(options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    if options.recipe:
        return [(options.recipe, options.set)]
    cases: list[tuple[str, list[str]]] = [
        ("vgg_cifar10", []),  # the paper's network and critics
        (SMALL, ["critics.batch_norm=false"]),
        (SMALL, []),  # BatchNorm in the critics: two backward passes through them
        ("vgg_cifar10", ["model.width=0.25"]),  # critics of full width on a narrow trunk: more memory traffic than MACs
    ]
    return [(name, [*own, *options.set]) for name, own in cases]


def _measure(name: str, overrides: list[str], repeats: int, device: torch.device) -> Row:
    local_critic = recipe.load(name, [*overrides, "train.method=local_critic"])
    steps = [_step(one, device) for one in (local_critic, recipe.load(name, [*overrides, "train.method=backprop"]))]
    for step in steps * WARMUP:
        step()
    rounds_ms = [_round(steps) for _ in range(repeats)]
    lc_ms, bp_ms = (statistics.median(times) for times in zip(*rounds_ms, strict=True))
    ratios = [lc / bp for lc, bp in rounds_ms]
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if repeats > 1 else ratios * 3
    mac_ratio = _mac_ratio(local_critic)
    return Row(
        recipe=name,
        overrides=overrides,
        batch_size=local_critic.data.batch_size,
        lc_ms=lc_ms,
        bp_ms=bp_ms,
        lc_over_bp=lc_ms / bp_ms,
        lc_over_bp_quartiles=[quartiles[0], quartiles[2]],
        mac_ratio=mac_ratio,
        limit=OVERHEAD * mac_ratio,
        met=lc_ms / bp_ms <= OVERHEAD * mac_ratio,
    )


def step_costs(name: str, methods: dict[str, list[str]], repeats: int) -> dict[str, float]:
    """Median milliseconds of a step on the CPU with each of several sets of overrides, taken in turn."""
    steps = {key: _step(recipe.load(name, overrides), torch.device("cpu")) for key, overrides in methods.items()}
    times_ms: dict[str, list[float]] = {key: [] for key in steps}
    for _ in range(WARMUP + repeats):
        for key, step in steps.items():
            times_ms[key].append(step())
    return {key: statistics.median(times[WARMUP:]) for key, times in times_ms.items()}


def _round(steps: Sequence[Step]) -> tuple[float, float]:
    """Milliseconds of a step of each method; A B B A, so that a machine that slows down slows both alike."""
    lc, bp = steps
    first, second, third, fourth = lc(), bp(), bp(), lc()
    return (first + fourth) / 2, (second + third) / 2


def _step(one: Recipe, device: torch.device) -> Step:
    """A function that trains for one step as the training loop does, and returns the milliseconds."""
    classes, image_shape = IMAGES[one.data.source]
    memory_format = torch.channels_last if one.train.channels_last else torch.contiguous_format
    channels = image_shape[0]
    network = build(one, classes, image_shape, (0.5,) * channels, (0.25,) * channels).train()
    network = network.to(device).to(memory_format=memory_format)
    optimizers = build_optimizers(one, network)
    method = build_method(one, network)
    generator = torch.Generator().manual_seed(one.train.seed)
    images = torch.rand(one.data.batch_size, *image_shape, generator=generator)
    images = images.to(device, memory_format=memory_format)
    labels = torch.randint(classes, (len(images),), generator=generator).to(device)

    def step() -> float:
        start = time.perf_counter()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=one.train.precision == "bf16"):
            method.backward(images, labels, 0)
        for optimizer in optimizers:
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1000 * (time.perf_counter() - start)

    return step


def _mac_ratio(one: Recipe) -> float:
    """MACs of groups and critics over MACs of groups."""
    classes, image_shape = IMAGES[one.data.source]
    channels = image_shape[0]
    cost = profile(build(one, classes, image_shape, (0.5,) * channels, (0.25,) * channels), image_shape)
    return cost.cascade_macs / sum(cost.group_macs)


def _report(rows: list[Row], options: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """The first row's figures on top, whether all rows are within their limits, the rows, and where they come from."""
    first = rows[0]
    return {
        "lc_over_bp": first.lc_over_bp,
        "mac_ratio": first.mac_ratio,
        "limit": first.limit,
        "met": all(row.met for row in rows),
        "rows": [asdict(row) for row in rows],
        "repeats": options.repeats,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **provenance("benchmarks.train_step", recipe.load(first.recipe, first.overrides).train.seed),
    }


if __name__ == "__main__":
    main()
