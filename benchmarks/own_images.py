"""A folder of photographs to a progressive model, fine-tuned and from initial weights, by the `lcprune` command alone.

    python -m benchmarks.own_images --out FOLDER [--data-root data] [--rounds 9]

CIFAR-10 is written out as PNG files of 64x64 pixels: seven classes on which a backbone is trained, and three others
that stand for a user's own photographs. What is in FOLDER already is not made again. Latency is the mean over test
images at batch 1 and one thread, each model in turn, as a ratio to main's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.commands import once, settings
from benchmarks.provenance import RESULTS, Row, command_line, provenance, save
from benchmarks.timing import mean_latencies, to_first
from lcprune import runs
from lcprune.data import sources
from lcprune.data.sources import Split
from lcprune.pipeline.metrics import read_metrics
from lcprune.recipe import DataConfig

RESULT = RESULTS / "own_images.json"
SEED = 0  # of the recipes that `lcprune init` writes
SIZE_PX = 64
MODEL = ("--model", "mobilenet_v3_small")
PHOTOS = ("automobile", "cat", "ship")
"""The classes that stand for a user's; the backbone has seen none of them."""
BACKBONE_EPOCHS, EPOCHS = 5, 8
EXPORTED = "runs/latest/export"
EXPORTS = {
    "main": ("--exit", "main"),
    "progressive fp32": ("--progressive", "--max-drop", "1"),
    "progressive int8": ("--progressive", "--max-drop", "1", "--precision", "int8"),
}
BUDGET = 3
"""Exit code of a command that finds nothing within the budget."""

FOLDERS = {
    "others": {"train": slice(0, 700), "test": slice(0, 100)},
    "photos": {"train": slice(0, 500), "test": slice(0, 300)},
    "new": {"": slice(300, 304)},
}
"""What the backbone learns from, what stands for a user's images, and images that no run has seen: of each class, the
images of every folder, those of ``train`` from the training split and all others from the test split."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes what is missing, measures, and writes the result file."""
    parser = command_line("benchmarks.own_images", __doc__, trains=True)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    home = options.out.resolve()
    home.mkdir(parents=True, exist_ok=True)
    write_folders(home, options.data_root)
    made = {"backbone": backbone(home), "fine-tuned": fine_tuned(home)}
    walk = walkthrough(home)
    made["initial weights"] = {"init": walk[0]["command"], "train": walk[2], **accuracies(home, "runs/photos-1")}
    exports = made["fine-tuned"]["exports"]
    made["fine-tuned"]["latency"] = latencies(home, exports, options.rounds)
    images = {name: count_images(home / name) for name in FOLDERS}
    about = {**provenance("benchmarks.own_images", SEED), "images": images, "size_px": SIZE_PX}
    result = {**about, **made, "walkthrough": walk}
    save(RESULT, result, {f"{home}/": "", str(home): "FOLDER"})


def write_folders(home: Path, data_root: Path) -> None:
    """CIFAR-10 as PNG files, a folder for each class; a folder that is there is left alone."""
    missing = [name for name in FOLDERS if not (home / name).exists()]
    if not missing:
        return
    dataset = sources.load(DataConfig(source="cifar10"), data_root, SEED)
    for name in missing:
        half_done = home / f"{name}.part"
        for folder, chosen in FOLDERS[name].items():
            split = dataset.train if folder == "train" else dataset.test
            for label, each in enumerate(dataset.classes):
                if (each in PHOTOS) == (name != "others"):
                    write_images(half_done / folder / each, split, np.flatnonzero(split.labels == label)[chosen])
        half_done.rename(home / name)


def write_images(folder: Path, split: Split, numbers: np.ndarray[Any, Any]) -> None:
    """Some images of a split, enlarged."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        image = Image.fromarray(split.images[number].transpose(1, 2, 0))
        image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.png")


def count_images(folder: Path) -> dict[str, int]:
    """PNG files by the folder above their class: ``train``, ``test``, or the folder itself."""
    parents = [path.parent.parent.name for path in folder.rglob("*.png")]
    return {name: parents.count(name) for name in sorted(set(parents))}


def backbone(home: Path) -> Row:
    """What stands for pretrained weights: main alone, trained for a short while on the other classes."""
    init = typed(home, "backbone/init", "init", "others/", *MODEL, "--output", "others.yaml")
    keys = ["train.method=backprop", f"train.epochs={BACKBONE_EPOCHS}", "data.normalize=imagenet"]
    words = ("others.yaml", *settings(keys), "--out", "runs/others")
    trained = train(figures, home, "backbone/train", "runs/others", *words)
    return {"init": init["command"], "train": trained, "evaluations": evaluations(home / "runs/others")}


def fine_tuned(home: Path) -> Row:
    """The backbone with a new classifier and critics, on the photographs; and what is exported of it."""
    weights = ("--weights", "runs/others/weights.safetensors")
    init = typed(home, "tuned/init", "init", "photos/", *MODEL, *weights, "--output", "tuned.yaml")
    keys = [f"train.epochs={EPOCHS}", "train.critic_warmup=10", "train.layer_decay=0.8"]
    words = ("tuned.yaml", *settings(keys), "--out", "runs/tuned")
    trained = train(figures, home, "tuned/train", "runs/tuned", *words)
    selected, exports = accuracies(home, "runs/tuned"), {}
    for what, options in EXPORTS.items():
        words = ("--format", "onnx", *options, "--output", f"runs/tuned/export/{what.replace(' ', '-')}.onnx")
        exports[what] = figures(home, f"tuned/export {what}", "export", "runs/tuned", *words)
    files = [row["path"] for row in exports.values() if "path" in row]
    evaluated = figures(home, "tuned/evaluate", "evaluate", "runs/tuned")
    found = {"exports": exports, "evaluate": evaluated, "bench": figures(home, "tuned/bench", "bench", *files)}
    return {"init": init["command"], "train": trained, **selected, **found}


def walkthrough(home: Path) -> list[Row]:
    """The commands of the walk-through and their output; they train the run from initial weights.

    It is trained last, so that it is ``runs/latest``.
    """
    photos = typed(home, "walk/init", "init", "photos/", *MODEL)
    return [
        photos,
        typed(home, "walk/dry-run", "train", "--dry-run"),
        train(typed, home, "walk/train", "runs/photos-1", *settings([f"train.epochs={EPOCHS}"])),
        typed(home, "walk/select", "select", "--max-drop", "2.0"),
        calibrated_or_by_hand(home),
        typed(home, "walk/predict", "predict", f"{EXPORTED}/progressive.onnx", "new/", "--save-grid", "sheet.png"),
    ]


def calibrated_or_by_hand(home: Path) -> Row:
    """The progressive export with thresholds that are calibrated, or by hand where no early exit pays."""
    words = ("export", "--format", "onnx", "--progressive")
    row = typed(home, "walk/export", *words, "--max-drop", "1")
    return typed(home, "walk/export by hand", *words, "--threshold", "0.9") if row["exit_code"] == BUDGET else row


def accuracies(home: Path, run: str) -> Row:
    """Accuracy of every exit of a run, during training and at the end, and the selection."""
    selected = figures(home, f"{Path(run).name}/select", "select", run, "--max-drop", "2")
    return {"evaluations": evaluations(home / run), "select": selected}


def evaluations(run: Path) -> list[Row]:
    """Validation accuracies on the way, with the statistics that BatchNorm had at that step."""
    return [line for line in read_metrics(run / runs.METRICS) if "split" in line]


def latencies(home: Path, exports: Mapping[str, Row], rounds: int) -> Row:
    """Of every file to main's, on test images of all classes."""
    config = DataConfig(source="imagefolder", root=home / "photos", image_size=SIZE_PX, val_size=len(PHOTOS))
    images = sources.load(config, home, SEED).test.images
    order = np.random.default_rng(SEED).permutation(len(images))[:300]
    paths = {name: home / row["path"] for name, row in exports.items() if "path" in row}
    return to_first(mean_latencies(paths, images[np.sort(order)], rounds))


def train(give: Callable[..., Row], home: Path, name: str, run: str, *words: str) -> Row:
    """Trains, or goes on with a run that was stopped; what is kept is the command that began it."""
    row = give(home, name, *(("resume", run) if (home / run).exists() else ("train", *words)))
    return {**row, "command": " ".join(["lcprune", "train", *words])}


def typed(home: Path, name: str, *words: str, parsed: bool = False) -> Row:
    """A command as a person types it, and what it prints; run once in the folder, and kept under a name.

    Raises:
        SystemExit: If it fails otherwise than by finding nothing within a budget.
    """

    def make() -> Row:
        call, wide = ["lcprune", *words, *(["--json"] if parsed else [])], {**os.environ, "COLUMNS": "200"}
        print(*call, file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, "-m", *call], cwd=home, env=wide, capture_output=True, text=True)
        if done.returncode not in (0, BUDGET):
            raise SystemExit(f"{' '.join(call)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        found = json.loads(done.stdout) if parsed else {"printed": done.stdout.splitlines()}
        told = [line for line in done.stderr.splitlines() if not line.startswith("step ")]
        row = {"command": " ".join(["lcprune", *words]), **(found if isinstance(found, dict) else {"rows": found})}
        return {**row, "told": told, "exit_code": done.returncode}

    return once(home / "said" / f"{name.replace(' ', '-')}.json", make)


figures = partial(typed, parsed=True)
"""A command's JSON output; likewise."""


if __name__ == "__main__":
    main()
