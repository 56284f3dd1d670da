"""A folder of photographs to a progressive model, fine-tuned and from initial weights, by the `lcprune` command alone.

    python -m benchmarks.own_images --out FOLDER [--data-root data] [--rounds 9]

CIFAR-10 is written out as PNG files of 64x64 pixels: seven classes on which a backbone is trained, and three others
that stand for a user's own photographs. What is in FOLDER already is not made again. Latency is the mean over test
images at batch 1 and one thread, each model in turn, as a ratio to main's.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.case import Row
from benchmarks.commands import once, settings
from benchmarks.image_latency import mean_latencies, to_first
from benchmarks.provenance import RESULTS, provenance, save
from lcprune.data import sources
from lcprune.data.sources import Dataset, Split
from lcprune.recipe import DataConfig

RESULT = RESULTS / "own_images.json"
SEED = 0  # of the recipes that `lcprune init` writes
SIZE_PX = 64
MODEL = ("--model", "mobilenet_v3_small")
PHOTOS = ("automobile", "cat", "ship")
"""The classes that stand for a user's; the backbone has seen none of them."""
BACKBONE_EPOCHS, EPOCHS = 5, 8
BUDGET = 3
"""Exit code of a command that finds nothing within the budget."""


@dataclass(frozen=True)
class Counts:
    """Images of each class that are written."""

    train: int
    test: int
    skipped: int = 0
    """Test images of each class that are passed over, since another folder has them."""


FOLDERS = {"others": Counts(700, 100), "photos": Counts(500, 300), "new": Counts(0, 4, skipped=300)}
"""What the backbone learns from, what stands for a user's images, and images that no run has seen."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes what is missing, measures, and writes the result file."""
    options = _parse(arguments)
    home = options.out.resolve()
    home.mkdir(parents=True, exist_ok=True)
    write_folders(home, options.data_root, options.share)
    made = {"backbone": backbone(home, options.set), "fine-tuned": fine_tuned(home, options.set)}
    walk = walkthrough(home, options.set)
    made["initial weights"] = {"init": walk[0]["command"], "train": walk[2], **accuracies(home, "runs/photos-1")}
    exports = made["fine-tuned"]["exports"]
    made["fine-tuned"]["latency"] = latencies(home, exports, options.images, options.rounds)
    result = {
        **provenance("benchmarks.own_images", SEED),
        "load": os.getloadavg()[0],
        "images": {name: count_images(home / name) for name in FOLDERS},
        "size_px": SIZE_PX,
        **made,
        "walkthrough": walk,
    }
    save(RESULT, result, {f"{home}/": "", str(home): "FOLDER"})


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_images", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the images, the recipes and the runs")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder with CIFAR-10")
    parser.add_argument("--share", type=float, default=1.0, help="of the images, for a try")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of all runs, for a try")
    parser.add_argument("--images", type=int, default=300, help="test images in a round of the latencies")
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args(arguments)


def write_folders(home: Path, data_root: Path, share: float = 1.0) -> None:
    """CIFAR-10 as PNG files, a folder for each class; a folder that is there is left alone."""
    missing = [name for name in FOLDERS if not (home / name).exists()]
    if not missing:
        return
    dataset = sources.load(DataConfig(source="cifar10"), data_root, SEED)
    for name in missing:
        counts = FOLDERS[name]
        classes = [each for each in dataset.classes if (each in PHOTOS) == (name != "others")]
        half_done = home / f"{name}.part"
        for each in classes:
            write_class(half_done, dataset, each, counts, share)
        half_done.rename(home / name)


def write_class(folder: Path, dataset: Dataset, name: str, counts: Counts, share: float) -> None:
    """The first images of a class, below ``train/`` and ``test/``, or directly where there is nothing to train."""
    label = dataset.classes.index(name)
    splits: tuple[tuple[str, Split, int, int], ...] = (
        ("train", dataset.train, 0, counts.train),
        ("test", dataset.test, counts.skipped, counts.test),
    )
    for split_name, split, begin, count in splits:
        target = folder / (split_name if counts.train else "") / name
        numbers = np.flatnonzero(split.labels == label)[begin : begin + math.ceil(count * share)]
        for number in numbers:
            target.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(split.images[number].transpose(1, 2, 0))
            image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC).save(target / f"{number:05d}.png")


def count_images(folder: Path) -> dict[str, int]:
    """PNG files by the folder above their class: ``train``, ``test``, or the folder itself."""
    parents = [path.parent.parent.name for path in folder.rglob("*.png")]
    return {name: parents.count(name) for name in sorted(set(parents))}


def backbone(home: Path, overrides: Sequence[str]) -> Row:
    """What stands for pretrained weights: main alone, trained for a short while on the other classes."""
    init = typed(home, "backbone/init", "init", "others/", *MODEL, "--output", "others.yaml")
    keys = ["train.method=backprop", f"train.epochs={BACKBONE_EPOCHS}", "data.normalize=imagenet", *overrides]
    words = ("others.yaml", *settings(keys), "--out", "runs/others")
    trained = train(figures, home, "backbone/train", "runs/others", *words)
    return {"init": init["command"], "train": trained, "evaluations": evaluations(home / "runs/others")}


def fine_tuned(home: Path, overrides: Sequence[str]) -> Row:
    """The backbone with a new classifier and critics, on the photographs."""
    weights = ("--weights", "runs/others/weights.safetensors")
    init = typed(home, "tuned/init", "init", "photos/", *MODEL, *weights, "--output", "tuned.yaml")
    keys = [f"train.epochs={EPOCHS}", "train.critic_warmup=10", "train.layer_decay=0.8", *overrides]
    words = ("tuned.yaml", *settings(keys), "--out", "runs/tuned")
    trained = train(figures, home, "tuned/train", "runs/tuned", *words)
    found = {**accuracies(home, "runs/tuned"), **exported(home, "runs/tuned")}
    return {"init": init["command"], "train": trained, **found}


def walkthrough(home: Path, overrides: Sequence[str]) -> list[Row]:
    """The commands of the walk-through and their output; they train the run from initial weights.

    It is trained last, so that it is ``runs/latest``.
    """
    photos = typed(home, "walk/init", "init", "photos/", *MODEL)
    keys = [f"train.epochs={EPOCHS}", *overrides]
    return [
        photos,
        typed(home, "walk/dry-run", "train", "--dry-run"),
        train(typed, home, "walk/train", "runs/photos-1", *settings(keys)),
        typed(home, "walk/select", "select", "--max-drop", "2.0"),
        calibrated_or_by_hand(home),
        typed(home, "walk/predict", "predict", f"{EXPORTED}/progressive.onnx", "new/", "--save-grid", "sheet.png"),
    ]


def calibrated_or_by_hand(home: Path) -> Row:
    """The progressive export with thresholds that are calibrated, or by hand where no early exit pays."""
    words = ("export", "--format", "onnx", "--progressive")
    row = typed(home, "walk/export", *words, "--max-drop", "1")
    return typed(home, "walk/export by hand", *words, "--threshold", "0.9") if row["exit_code"] == BUDGET else row


EXPORTED = "runs/latest/export"
EXPORTS = {
    "main": ("--exit", "main"),
    "progressive fp32": ("--progressive", "--max-drop", "1"),
    "progressive int8": ("--progressive", "--max-drop", "1", "--precision", "int8"),
}


def accuracies(home: Path, run: str) -> Row:
    """Accuracy of every exit of a run, during training and at the end, and the selection."""
    selected = figures(home, f"{Path(run).name}/select", "select", run, "--max-drop", "2")
    return {"evaluations": evaluations(home / run), "select": selected}


def exported(home: Path, run: str) -> Row:
    """The exports of a finished run, and their latency."""
    exports, name = {}, Path(run).name
    for what, words in EXPORTS.items():
        path = f"{run}/export/{what.replace(' ', '-')}.onnx"
        options = ("--format", "onnx", *words, "--output", path)
        exports[what] = figures(home, f"{name}/export {what}", "export", run, *options)
    files = [row["path"] for row in exports.values() if "path" in row]
    evaluated = figures(home, f"{name}/evaluate", "evaluate", run)
    return {"exports": exports, "evaluate": evaluated, "bench": figures(home, f"{name}/bench", "bench", *files)}


def evaluations(run: Path) -> list[Row]:
    """Validation accuracies on the way, with the statistics that BatchNorm had at that step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "split" in line]


def latencies(home: Path, exports: Mapping[str, Row], count: int, rounds: int) -> Row:
    """Of every file to main's, on test images of all classes."""
    config = DataConfig(source="imagefolder", root=home / "photos", image_size=SIZE_PX, val_size=len(PHOTOS))
    images = sources.load(config, home, SEED).test.images
    order = np.random.default_rng(SEED).permutation(len(images))[:count]
    paths = {name: home / row["path"] for name, row in exports.items() if "path" in row}
    return to_first(mean_latencies(paths, images[np.sort(order)], rounds))


def train(give: Callable[..., Row], home: Path, name: str, run: str, *words: str) -> Row:
    """Trains, or goes on with a run that was stopped; what is kept is the command that began it."""
    row = give(home, name, *(("resume", run) if (home / run).exists() else ("train", *words)))
    return {**row, "command": " ".join(["lcprune", "train", *words])}


def typed(home: Path, name: str, *words: str) -> Row:
    """A command as a person types it, and what it prints; run once, and kept under a name."""
    return _once(home, name, words, (), lambda printed: {"printed": printed.splitlines()})


def figures(home: Path, name: str, *words: str) -> Row:
    """A command's JSON output; likewise."""
    return _once(home, name, words, ("--json",), _data)


def _data(printed: str) -> Row:
    found = json.loads(printed)
    return found if isinstance(found, dict) else {"rows": found}


def _once(home: Path, name: str, words: Sequence[str], options: Sequence[str], read: Callable[[str], Row]) -> Row:
    def make() -> Row:
        done = _run(home, (*words, *options))
        told = [line for line in done.stderr.splitlines() if not line.startswith("step ")]
        row = {"command": " ".join(["lcprune", *words]), **read(done.stdout), "told": told}
        return {**row, "exit_code": done.returncode}

    return once(home / "said" / f"{name.replace(' ', '-')}.json", make)


def _run(home: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """One command in the folder.

    Raises:
        SystemExit: If it fails otherwise than by finding nothing within a budget.
    """
    print(f"lcprune {' '.join(words)}", file=sys.stderr, flush=True)
    wide = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "lcprune", *words], cwd=home, env=wide, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, BUDGET):
        raise SystemExit(f"lcprune {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done


if __name__ == "__main__":
    main()
