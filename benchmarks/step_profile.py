"""What a training step spends its time on, before and after each change that made it faster.

    python -m benchmarks.step_profile --save

Every variant adds one change to the one before. A variant runs in processes of its own, since the allocator is a
process's, and the processes take turns. Times are shares of the first variant's step, so that they say the same on
another machine; what the operators take is torch.profiler's self time on the CPU.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks import networks
from benchmarks.provenance import provenance
from benchmarks.timing import spread
from lcprune.models import AveragePool
from lcprune.models.layers import Flatten
from lcprune.training.allocator import keep_freed_memory
from lcprune.training.methods import build_method
from lcprune.training.optim import build_optimizers
from lcprune.training.step import EagerStep

RESULT = Path(__file__).parent / "results" / "step_profile.json"
VARIANTS = ("torch's layers", "Flatten", "AveragePool", "freed memory kept")
RECIPES: dict[str, tuple[str, ...]] = {
    "vgg_cifar10_small": (),
    "vgg_cifar10": (),
    "vgg_cifar10 at quarter width": ("model.width=0.25",),
}
METHODS = ("local_critic", "backprop")
WARMUP, STEPS, PROFILED_STEPS = 3, 8, 3
OPERATORS = 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures all variants, or in a process of its own one of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_profile", description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=3, help="processes of each variant")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    parser.add_argument("--one", nargs=2, metavar=("RECIPE", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]))))
        return
    rows = [row for recipe in RECIPES for row in _in_turn(recipe, options.turns)]
    report = {"rows": rows, "turns": options.turns, **provenance("benchmarks.step_profile", networks.SEED)}
    if options.save:
        RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


def measure(name: str, variant: int) -> dict[str, Any]:
    """Seconds of a step of both methods, its page faults, and the operators of `local_critic` with their seconds."""
    if variant >= VARIANTS.index("freed memory kept"):
        keep_freed_memory()
    steps = {method: _step(name, method, variant) for method in METHODS}
    for _ in range(WARMUP):
        for step in steps.values():
            step()
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    faults: dict[str, list[int]] = {method: [] for method in METHODS}
    for _ in range(STEPS):
        for method, step in steps.items():
            before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
            step()
            seconds[method].append(time.perf_counter() - start)
            faults[method].append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(PROFILED_STEPS):
            steps["local_critic"]()
    operators = {
        event.key.removeprefix("aten::"): event.self_cpu_time_total / 1e6 / PROFILED_STEPS
        for event in profiler.key_averages()
    }
    return {
        "seconds": {method: spread(values).median for method, values in seconds.items()},
        "faults": {method: spread(values).median for method, values in faults.items()},
        "operators": operators,
    }


def _in_turn(name: str, turns: int) -> list[dict[str, Any]]:
    """A row for each variant: shares of the first one's step, turn by turn."""
    found: list[list[dict[str, Any]]] = [[] for _ in VARIANTS]
    for _ in range(turns):
        for variant, results in enumerate(found):
            results.append(_in_own_process(name, variant))
    rows = []
    for label, results in zip(VARIANTS, found, strict=True):
        shares = {
            method: spread(
                [
                    one["seconds"][method] / first["seconds"][method]
                    for one, first in zip(results, found[0], strict=True)
                ]
            )
            for method in METHODS
        }
        whole = [first["seconds"]["local_critic"] for first in found[0]]
        operators = {
            key: 100
            * spread([one["operators"].get(key, 0.0) / all_ for one, all_ in zip(results, whole, strict=True)]).median
            for key in results[0]["operators"]
        }
        rows.append(
            {
                "recipe": name,
                "variant": label,
                "step_over_first": {method: vars(share) for method, share in shares.items()},
                "lc_over_bp": vars(
                    spread([one["seconds"]["local_critic"] / one["seconds"]["backprop"] for one in results])
                ),
                "page_faults": {
                    method: spread([one["faults"][method] for one in results]).median for method in METHODS
                },
                "operators_pct_of_first": dict(sorted(operators.items(), key=lambda item: -item[1])[:OPERATORS]),
            }
        )
    return rows


def _in_own_process(name: str, variant: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step_profile", "--one", name, str(variant)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _step(name: str, method: str, variant: int) -> Any:
    recipe = networks.load(name.split()[0], [*RECIPES[name], f"train.method={method}"])
    device = torch.device("cpu")
    network = networks.make_network(recipe, device)
    if variant < VARIANTS.index("AveragePool"):
        _put(network, AveragePool, lambda layer: nn.AvgPool2d(layer.kernel_size))
    if variant < VARIANTS.index("Flatten"):
        _put(network, Flatten, lambda layer: nn.Flatten())
    optimizers = build_optimizers(recipe, network)
    step = EagerStep(build_method(recipe, network), optimizers, device, bf16=False)
    split = networks.noise(recipe, recipe.data.batch_size)
    images = torch.from_numpy(split.images).float().div_(255).contiguous(memory_format=networks.memory_format(recipe))
    labels = torch.from_numpy(split.labels)
    return lambda: step(images, labels, 0)


def _put(module: nn.Module, kind: type[nn.Module], make: Any) -> None:
    """Replaces every layer of a kind, wherever it is."""
    for name, child in module.named_children():
        if type(child) is kind:
            setattr(module, name, make(child))
        else:
            _put(child, kind, make)


if __name__ == "__main__":
    main()
