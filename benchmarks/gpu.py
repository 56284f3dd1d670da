"""What a CUDA device makes of a training step, of the paper's whole run, and of the fast recipe.

    python -m benchmarks.gpu [--only PART ...] [--data-root data] [--full] [--budget-s 540]

Writes ``benchmarks/results/<device>.json`` after every case; cases that are in the file are skipped, and
none is started after ``--budget-s`` seconds, so that the same command, given again, goes on. Times are absolute, and
the device is named. ``fast`` trains on CIFAR-10 in ``--data-root``, ``--full`` on CIFAR-10 and then on CIFAR-100; the
rest needs no images.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import memory, networks, steps, throughput
from benchmarks.bench import Cases
from benchmarks.commands import settings
from benchmarks.provenance import RESULTS, Row, command_line, read, save_part, slug
from benchmarks.timing import spread
from lcprune import recipe as recipes
from lcprune.recipe import Recipe
from lcprune.training.parallel import Coordinator

RECIPE, FAST_RECIPE = "vgg_cifar10", "vgg_cifar10_fast"
PROTOCOL_STEPS = 80_000
PROTOCOL_LIMIT_MINUTES = 4.0
TARGETS_PCT = (92.39, 93.93)
"""Main's accuracy on CIFAR-10 in the paper: local critic training, backpropagation."""
FULL = {
    "CIFAR-10, local_critic": ("vgg_cifar10", ()),
    "CIFAR-10, backprop": ("vgg_cifar10", ("train.method=backprop",)),
    "CIFAR-100, local_critic": ("vgg_cifar100", ()),
    "CIFAR-100, backprop": ("vgg_cifar100", ("train.method=backprop",)),
}
"""The runs of ``--full``, the most wanted first: recipe and overrides."""
RARELY = ("train.evaluate_every=8000", "train.checkpoint_every=20000")
"""What is written on the way changes no result, but takes the time of a device that is lent."""
LCPRUNE = (sys.executable, "-m", "lcprune")
EVALUATION_S = 120
"""What an evaluation may take at most."""

_BF16 = ("train.precision=bf16", "train.channels_last=true")
VARIANTS = {
    "eager, fp32": (),
    "eager, bf16 channels_last": _BF16,
    "compile": (*_BF16, "train.compile=true"),
    "cuda_graph": (*_BF16, "train.cuda_graph=true"),
    "compile, cuda_graph": (*_BF16, "train.compile=true", "train.cuda_graph=true"),
    "cuda_graph, overlap": (*_BF16, "train.cuda_graph=true", "train.overlap=true"),
}

Length = tuple[int, int, int]
"""How long a step is measured: steps that do not count, those of a stretch that does, and how many stretches."""
VARIANT_LENGTH: Length = (60, 200, 7)
SAMPLE_LENGTH: Length = (60, 1000, 4)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing."""
    options = parser().parse_args(arguments)
    if options.case:
        part, name = options.case
        print(json.dumps(all_parts(torch.device("cuda"))[part][name]()))
        return
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured", file=sys.stderr)
        raise SystemExit(1)
    device = torch.cuda.get_device_name()
    suite = Suite(options, RESULTS / f"{slug(device)}.json", device)
    for part in options.only:
        suite.run(part)
    print(suite.path)
    if suite.left:
        print("not done: " + "; ".join(suite.left) + "\nThe same command goes on.")


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = command_line("benchmarks.gpu", __doc__)
    parts = ("variants", "protocol", "fast", "speed", "memory")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=", ".join(parts))
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder with CIFAR-10")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-gpu"), help="folder for the runs")
    parser.add_argument("--budget-s", type=float, default=540, help="seconds after which nothing new is started")
    parser.add_argument("--full", action="store_true", help="train the paper's protocol to its end, both data sets")
    parser.add_argument("--lengths", type=int, nargs="+", default=[], help="iterations of the fast recipe to try")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the fast recipe")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)  # one case in this process, its rows on stdout
    return parser


class Suite:
    """The parts, the result file that they fill, and the time that is left."""

    def __init__(self, options: argparse.Namespace, path: Path, device: str) -> None:
        """`path` holds what earlier calls measured; `device` is named in it."""
        self.path = path
        self.left: list[str] = []
        self._options = options
        self._device = device
        self._end = time.monotonic() + options.budget_s

    def run(self, part: str) -> None:
        """What is missing of a part; ``memory`` is bytes and times."""
        if part in ("protocol", "fast"):
            getattr(self, part)()
            return
        for each in (part, "memory time") if part == "memory" else (part,):
            for name in all_parts(torch.device("cuda"))[each]:
                self._case(each, name)

    def protocol(self) -> None:
        """The paper's run in the fastest variant: a sample, and with ``--full`` all of it."""
        measured = [row for row in self._rows("variants") if row["method"] == "local_critic"]
        if not measured:
            self.left.append("protocol (needs variants)")
            return
        best = min(measured, key=lambda row: float(row["step_ms"]["median"]))["variant"]
        self._case("protocol", best)
        for name, (recipe, keys) in FULL.items() if self._options.full else ():
            trained = self._train("protocol", name, recipe, [*VARIANTS[best], *RARELY, *keys])
            if trained is not None:
                row = _protocol_row(f"whole, {name}", best, trained["iterations"], trained["seconds"] / 60)
                self._add("protocol", name, [{**row, "test_accuracy_pct": trained["test_accuracy_pct"]}])

    def fast(self) -> None:
        """The fast recipe at several lengths, with every seed."""
        lengths = self._options.lengths or [recipes.load(FAST_RECIPE).train.iterations or 0]
        for length in lengths:
            for seed in self._options.seeds:
                name, keys = f"{length}, seed {seed}", [f"train.iterations={length}", f"train.seed={seed}"]
                trained = self._train("fast_runs", name, FAST_RECIPE, keys)
                if trained is not None:
                    self._add("fast_runs", name, [fast_run(seed, trained)])
        runs = self._rows("fast_runs")
        if runs:
            rows, reached = summarise(runs)
            self._write("fast", rows, time_to_pct=reached)

    def _case(self, part: str, name: str) -> None:
        """Measures in a process of its own, unless that was done."""
        printed = self._measured(part, name, [sys.executable, "-m", "benchmarks.gpu", "--case", part, name])
        if printed is not None:
            self._add(part, name, printed)

    def _train(self, part: str, name: str, recipe: str, keys: Sequence[str]) -> Row | None:
        """Trains a run to its end, or goes on with it; None if that was done, or is not done yet."""
        folder = self._options.runs / f"{recipe}-{slug(name)}"
        words = ["train", recipe, "--out", str(folder), "--data-root", str(self._options.data_root)]
        words = ["resume", str(folder)] if folder.exists() else [*words, "--device", "cuda", *settings(keys)]
        trained = self._measured(part, name, [*LCPRUNE, *words, "--json"])
        return None if trained is None else dict(trained)

    def _measured(self, part: str, name: str, words: Sequence[str]) -> Any:
        """What a command prints as JSON; None if that is in the file, no time is left, or it failed."""
        if any(row["case"] == name for row in self._rows(part)):
            return None
        left_s = self._end - time.monotonic()
        print(f"{part}: {name} ...", end=" ", flush=True)
        printed = run_for(words, left_s) if left_s > 0 else None
        print("done" if printed else "left", flush=True)
        if not printed:
            self.left.append(f"{part}: {name}")
            return None
        return json.loads(printed)

    def _rows(self, part: str) -> list[Row]:
        return list(read(self.path).get(part, {}).get("rows", []))

    def _add(self, part: str, name: str, rows: Sequence[Row]) -> None:
        self._write(part, [*self._rows(part), *({"case": name, **row} for row in rows)])

    def _write(self, part: str, rows: Sequence[Row], **more: Any) -> None:
        save_part(self.path, part, "benchmarks.gpu", networks.SEED, rows, device=self._device, **more)


def all_parts(device: torch.device) -> dict[str, Cases]:
    """The cases of every part that are measured in processes of their own, by name."""
    case = throughput.Case("paper width", RECIPE, VARIANTS["cuda_graph"], rounds=5, burst=100)
    return {
        "variants": {
            f"{method}, {variant}": partial(measure_variant, method, variant, device, VARIANT_LENGTH)
            for method in throughput.METHODS
            for variant in VARIANTS
        },
        "protocol": {variant: partial(measure_protocol, variant, device, SAMPLE_LENGTH) for variant in VARIANTS},
        "speed": {method: partial(throughput.measure_overhead, case, method, device) for method in throughput.METHODS},
        **memory.parts(device),
    }


def measure_variant(
    method: str, variant: str, device: torch.device, length: Length, overrides: Sequence[str] = ()
) -> list[Row]:
    """One row: milliseconds of a step, and the share of the bf16 matrix rate that it reaches.

    A step of the fp32 variant may use TF32 in its convolutions, as torch does by default.
    """
    recipe = networks.load(RECIPE, [*throughput.METHODS[method], *VARIANTS[variant], *overrides])
    step_s = measure_steps(recipe, device, length)
    product, size = throughput.best_product(device, torch.bfloat16)
    product_s = min(product(5) / 5 for _ in range(5))
    least_s = throughput.least_seconds(networks.count_macs(recipe)[1], recipe.data.batch_size, product_s, size)
    return [
        {
            "method": method,
            "variant": variant,
            "overrides": list(VARIANTS[variant]),
            "step_ms": spread([1000 * seconds for seconds in step_s]),
            "images_per_s": recipe.data.batch_size / statistics.median(step_s),
            "bf16_tflops": 2 * size**3 / product_s / 1e12,
            "share_of_bf16_rate": spread([least_s / seconds for seconds in step_s]),
        }
    ]


def measure_protocol(variant: str, device: torch.device, length: Length, overrides: Sequence[str] = ()) -> list[Row]:
    """One row: what a sample of steps says about the paper's run."""
    recipe = networks.load(RECIPE, [*throughput.LOCAL_CRITIC, *VARIANTS[variant], *overrides])
    step_s = measure_steps(recipe, device, length)
    minutes = statistics.median(step_s) * PROTOCOL_STEPS / 60
    return [_protocol_row("from a sample", variant, length[1] * length[2], minutes)]


def measure_steps(recipe: Recipe, device: torch.device, length: Length) -> list[float]:
    """Seconds of a step in each stretch, all in one run of the training loop."""
    split = networks.noise(recipe, samples=50_000 if device.type == "cuda" else 256)
    ours = steps.Ours(recipe, split, Coordinator(device))
    warmup, stretch, stretches = length
    return [seconds / stretch for seconds in ours.laps([warmup, *[stretch] * stretches])[1:]]


def fast_run(seed: int, trained: Row) -> Row:
    """What a run of the fast recipe took and reached, on plain images and with their mirror images."""
    printed = run_for([*LCPRUNE, "evaluate", trained["run"], "--flip", "--json"], EVALUATION_S)
    plain = trained["test_accuracy_pct"][-1]
    return {
        "iterations": trained["iterations"],
        "seed": seed,
        "train_s": trained["seconds"],
        "plain_accuracy_pct": plain,
        "flip_accuracy_pct": json.loads(printed)["exits"][-1]["accuracy_pct"] if printed else plain,
    }


def summarise(runs: Sequence[Row]) -> tuple[list[Row], Row]:
    """A row for each length of the fast recipe, and the time of the shortest one whose mean reaches each target."""
    rows = []
    for length in sorted({run["iterations"] for run in runs}):
        of_length = [run for run in runs if run["iterations"] == length]
        accuracies = [run["flip_accuracy_pct"] for run in of_length]
        row = {"iterations": length, "seeds": [run["seed"] for run in of_length], "test_accuracy_pct": accuracies}
        row |= {"mean_pct": statistics.mean(accuracies), "train_s": [run["train_s"] for run in of_length]}
        rows.append(row)
    reached = {
        str(target): next((statistics.median(row["train_s"]) for row in rows if row["mean_pct"] >= target), None)
        for target in TARGETS_PCT
    }
    return rows, reached


def run_for(words: Sequence[str], seconds: float) -> str | None:
    """What a command prints on stdout; None if it fails. When the time is over it is interrupted, and so can save."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.communicate()
        return None
    return None if process.returncode else printed


def _protocol_row(how: str, variant: str, measured_steps: int, minutes: float) -> Row:
    met = minutes <= PROTOCOL_LIMIT_MINUTES
    return {"how": how, "variant": variant, "measured_steps": measured_steps, "minutes": minutes, "met": met}


if __name__ == "__main__":
    main()
