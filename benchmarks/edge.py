"""Latency, accuracy and size of what `vgg_cifar10_edge` exports, against main in float32.

    python -m benchmarks.edge --out FOLDER [--data-root data] [--rounds 9]

Latency is the mean over test images at batch 1 and one thread, each model in turn, as a ratio to main's. A second
network of the paper's width was hardly trained: its thresholds give each exit the share of images that the trained
network gives it, so that its latency is meaningful and its accuracy is not. Some files end at sub-model 5.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Row
from benchmarks.commands import lcprune, once, train
from benchmarks.image_latency import mean_latencies, to_first
from benchmarks.provenance import RESULTS, provenance, save
from lcprune import runs
from lcprune.analysis.budget import Family
from lcprune.analysis.temperature import temperatures
from lcprune.analysis.thresholds import rows_of, simulate
from lcprune.pipeline.costs import costs_of
from lcprune.pipeline.stored import load_dataset

RECIPE = "vgg_cifar10_edge"
SEED = 0  # of the recipe
PAPER_WIDTH = ("model.width=1.0", "train.iterations=40", "train.evaluate_every=40", "train.checkpoint_every=40")
DROPS_PCT = {"fp32": 0.4, "int8": 0.8}
"""Points below main in float32 that progressive inference may lose on the validation images. On the test images it
loses some tenths more; 0.64 and 1 are what it may lose there."""
SWEEP_PCT = (0.1, 0.2, 0.3, 0.4, 0.5, 0.64, 1.0, 2.0)
CRITERION = "margin"
ONE_IMAGE = ("--batch", "1")  # the graph needs no gathering of rows
LAST = "sub-model 5"
"""The last exit of the files without main: hardly any image passes it."""
LEAST_TIME = {
    f"progressive {kind}, least time{f', to {last}' if last != 'main' else ''}": (kind, last)
    for last in ("main", LAST)
    for kind in ("fp32", "int8")
}
"""Precision and last exit of the files that are made for the least time."""
NEVER = 1.5
"""A threshold that no confidence reaches."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and exports what is missing, measures, and writes the result file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edge", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the run folders")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder with CIFAR-10")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--images", type=int, default=1000, help="test images in a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the recipe")
    parser.add_argument("--result", type=Path, default=RESULTS / "edge_cifar10.json")
    options = parser.parse_args(arguments)
    about = {**provenance("benchmarks.edge", SEED), "load": os.getloadavg()[0]}
    save(options.result, {**about, **measure(options)}, {str(options.out): "FOLDER"})


def measure(options: argparse.Namespace) -> Row:
    """Both widths: what was exported, and the latencies."""
    trained = options.out / "edge"
    report = train(options.recipe, trained, options.data_root, options.set)
    exports = export_all(trained)
    images = test_images(trained, options.images)
    wide = options.out / "paper_width"
    train(options.recipe, wide, options.data_root, [*options.set, *PAPER_WIDTH])
    return {
        "train": report,
        "exports": exports,
        "sweep": sweep(trained),
        "latency": latencies(exports, images, options.rounds),
        "paper_width": at_paper_width(wide, exports, images[: max(1, options.images // 5)], options.rounds),
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
    for name, (kind, last) in LEAST_TIME.items():
        words = ("--minimize", "latency", *ONE_IMAGE, *_last_exit(last))
        found[name] = _progressive(run, folder / f"least-time-{kind}{_number(last)}.onnx", kind, *words)
    return found


def sweep(run: Path) -> list[Row]:
    """Thresholds from validation at several budgets, and what they do to the test images."""
    folder, recipe = runs.open_run(run)
    arrays, cost = runs.read_predictions(folder), costs_of(folder, recipe).cascade
    fitted = temperatures(arrays["val_logits"], arrays["val_labels"])
    val, test = (
        rows_of(arrays[f"{split}_logits"], arrays[f"{split}_labels"], cost, CRITERION, fitted)
        for split in ("val", "test")
    )
    rows, family = [], Family({CRITERION: val})
    for budget_pct in SWEEP_PCT:
        chosen = family.within_drop(budget_pct)
        if chosen is None:
            continue
        found = simulate(test, chosen.exits, chosen.thresholds)
        drop_pct = 100 * float(test.correct[-1].mean()) - found.accuracy_pct
        row = {"max_drop_pct": budget_pct, "expected_drop_pct": chosen.expected_drop_pct}
        row |= {
            "expected_drop_se_pct": chosen.expected_drop_se_pct,
            "val_macs_ratio": chosen.macs_ratio,
            "test_macs_ratio": found.macs_ratio,
        }
        rows.append({**row, "test_accuracy_pct": found.accuracy_pct, "test_drop_pct": round(drop_pct, 6)})
    return rows


def at_paper_width(run: Path, trained: Mapping[str, Row], images: np.ndarray[Any, Any], rounds: int) -> Row:
    """Latencies of the same exits at the paper's width, with the shares of images per exit of `trained`."""
    folder, logits = run / "export", runs.read_predictions(run)["test_logits"]
    exports = {"main fp32": _export(run, folder / "main-fp32.onnx", "--exit", "main")}
    for name, (kind, last) in LEAST_TIME.items():
        exits = [int(exit_name.split()[-1]) for exit_name in trained[name]["exits"][:-1]]
        thresholds = thresholds_for(logits, [k - 1 for k in exits], trained[name]["exit_fractions"])
        words = ["--progressive", "--exits", ",".join(map(str, exits)), "--precision", kind, *ONE_IMAGE]
        words += ["--threshold", ",".join(f"{value:.9f}" for value in thresholds), *_last_exit(last)]
        exports[name] = _export(run, folder / f"progressive-{kind}{_number(last)}.onnx", *words)
    return {"exports": exports, "latency": latencies(exports, images, rounds)}


def thresholds_for(logits: np.ndarray[Any, Any], exits: Sequence[int], fractions: Sequence[float]) -> tuple[float, ...]:
    """Thresholds at which these shares of the images stop at these exits.

    Args:
        logits: Of all exits, ``(K, N, C)``.
        exits: ``exit_index`` of the early exits.
        fractions: Share of all images that stops at each, and last at the last exit.
    """
    rows = np.arange(logits.shape[1])
    thresholds = []
    for exit_index, share in zip(exits, fractions, strict=False):
        of_exit = logits[exit_index, rows].astype(np.float64)
        powers = np.exp(of_exit - of_exit.max(axis=1, keepdims=True))
        confidences = powers.max(axis=1) / powers.sum(axis=1)
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


def test_images(run: Path, count: int) -> np.ndarray[Any, Any]:
    """The first test images of a run's data, ``(N, C, H, W)`` uint8."""
    folder, recipe = runs.open_run(run)
    dataset, _ = load_dataset(folder, recipe)
    return dataset.test.images[:count]


def _last_exit(last: str) -> tuple[str, ...]:
    return () if last == "main" else ("--exit", last.split()[-1])


def _number(last: str) -> str:
    return "" if last == "main" else f"-to-{last.split()[-1]}"


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
