"""Latency, accuracy and size of what `vgg_cifar10_edge` exports, against main in float32.

    python -m benchmarks.edge --out FOLDER [--data-root data] [--rounds 9]

Latency is the mean over test images at batch 1 and one thread, each model in turn, as a ratio to main's. A second
network of the paper's width was hardly trained: its thresholds give each exit the share of images that the trained
network gives it, so that its latency is meaningful and its accuracy is not. Some files end at sub-model 5.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import budget
from benchmarks.commands import lcprune, once, train
from benchmarks.provenance import RESULTS, Row, command_line, provenance, save
from benchmarks.timing import mean_latencies, to_first
from lcprune import runs
from lcprune.pipeline.costs import costs_of
from lcprune.pipeline.stored import load_dataset
from lcprune_runtime.criterion import scores

RECIPE = "vgg_cifar10_edge"
SEED = 0  # of the recipe
PAPER_WIDTH = ("model.width=1.0", "train.iterations=40", "train.evaluate_every=40", "train.checkpoint_every=40")
DROPS_PCT = {"fp32": 0.4, "int8": 0.8}
"""Points below main in float32 that progressive inference may lose on the validation images. On the test images it
loses some tenths more; 0.64 and 1 are what it may lose there."""
CRITERION = budget.CRITERION
ONE_IMAGE = ("--batch", "1")  # the graph needs no gathering of rows
LAST = "5"
"""The sub-model at which the files without main end: hardly any image passes it."""
LEAST_TIME = {
    f"progressive {kind}, least time{named}": (kind, number, words)
    for named, number, words in (("", "", ()), (f", to sub-model {LAST}", f"-to-{LAST}", ("--exit", LAST)))
    for kind in ("fp32", "int8")
}
"""Of the files that are made for the least time: precision, what is in their name, and the words for the last exit."""
IMAGES = 1000
"""Test images in a round of the latencies."""
NEVER = 1.5
"""A threshold that no confidence reaches."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and exports what is missing, measures, and writes the result file."""
    parser = command_line("benchmarks.edge", __doc__, trains=True)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    result = {**provenance("benchmarks.edge", SEED), **measure(options)}
    save(RESULTS / "edge_cifar10.json", result, {str(options.out): "FOLDER"})


def measure(options: argparse.Namespace) -> Row:
    """Both widths: what was exported, and the latencies."""
    trained = options.out / "edge"
    report = train(RECIPE, trained, options.data_root)
    exports = export_all(trained)
    dataset, _ = load_dataset(*runs.open_run(trained))
    images = dataset.test.images[:IMAGES]
    wide = options.out / "paper_width"
    train(RECIPE, wide, options.data_root, PAPER_WIDTH)
    return {
        "train": report,
        "exports": exports,
        "sweep": budget.sweep(runs.read_predictions(trained), costs_of(*runs.open_run(trained)).cascade),
        "latency": latencies(exports, images, options.rounds),
        "paper_width": at_paper_width(wide, exports, images[: IMAGES // 5], options.rounds),
    }


def export_all(run: Path) -> dict[str, Row]:
    """Main and the progressive model in every precision that matters, by name."""
    folder = run / "export"
    found = {
        f"main {kind}": _export(run, folder / f"main-{kind}.onnx", "--exit", "main", "--precision", kind)
        for kind in ("fp32", "int8")
    }
    for kind in ("fp32", "w8", "fp16"):
        found[f"progressive {kind}"] = _progressive(run, folder / f"progressive-{kind}.onnx", kind)
    for name, (kind, number, last) in LEAST_TIME.items():
        words = ("--minimize", "latency", *ONE_IMAGE, *last)
        found[name] = _progressive(run, folder / f"least-time-{kind}{number}.onnx", kind, *words)
    return found


def at_paper_width(run: Path, trained: Mapping[str, Row], images: np.ndarray[Any, Any], rounds: int) -> Row:
    """Latencies of the same exits at the paper's width, with the shares of images per exit of `trained`."""
    folder, logits = run / "export", runs.read_predictions(run)["test_logits"]
    exports = {"main fp32": _export(run, folder / "main-fp32.onnx", "--exit", "main")}
    for name, (kind, number, last) in LEAST_TIME.items():
        exits = [int(exit_name.split()[-1]) for exit_name in trained[name]["exits"][:-1]]
        thresholds = thresholds_for(logits, [k - 1 for k in exits], trained[name]["exit_fractions"])
        words = ["--progressive", "--exits", ",".join(map(str, exits)), "--precision", kind, *ONE_IMAGE]
        words += ["--threshold", ",".join(f"{value:.9f}" for value in thresholds), *last]
        exports[name] = _export(run, folder / f"progressive-{kind}{number}.onnx", *words)
    return {"exports": exports, "latency": latencies(exports, images, rounds)}


def thresholds_for(logits: np.ndarray[Any, Any], exits: Sequence[int], fractions: Sequence[float]) -> tuple[float, ...]:
    """Thresholds at which these shares of the images stop at these exits.

    Args:
        logits: Of all exits, ``(K, N, C)``.
        exits: ``exit_index`` of the early exits.
        fractions: Share of all images that stops at each, and last at the last exit.
    """
    rows = np.arange(logits.shape[1])
    of_exits, thresholds = scores(logits)[0], []
    for exit_index, share in zip(exits, fractions, strict=False):
        confidences = of_exits[exit_index, rows].astype(np.float64)
        order = np.argsort(-confidences, kind="stable")
        leaving = min(round(share * logits.shape[1]), len(rows))
        around = confidences[order[max(leaving - 1, 0) : leaving + 1]]
        thresholds.append(float(around.mean()) if leaving > 0 and len(around) else NEVER)
        rows = np.sort(rows[order[leaving:]])
    return tuple(thresholds)


def latencies(exports: Mapping[str, Row], images: np.ndarray[Any, Any], rounds: int) -> dict[str, dict[str, float]]:
    """Of every export to main's in float32, and of images that take no early exit."""
    paths = {name: Path(row["path"]) for name, row in exports.items()}
    never = {}
    for name in LEAST_TIME:
        paths[f"{name}, no early exit"] = paths[name]
        never[f"{name}, no early exit"] = [NEVER] * len(exports[name]["thresholds"])
    return to_first(mean_latencies(paths, images, rounds, never))


def _progressive(run: Path, path: Path, kind: str, *words: str) -> Row:
    drop = str(DROPS_PCT.get(kind, DROPS_PCT["fp32"]))
    options = ("--progressive", "--max-drop", drop, "--criterion", CRITERION, "--precision", kind)
    return _export(run, path, *options, *words)


def _export(run: Path, path: Path, *words: str) -> Row:
    """What `lcprune export` prints of a file, which is written once."""
    command = ("export", str(run), "--format", "onnx", *words, "--output", str(path))
    return once(path.with_suffix(".json"), lambda: lcprune(*command))


if __name__ == "__main__":
    main()
