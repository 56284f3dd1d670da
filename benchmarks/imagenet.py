"""ImageNet's layout and size of files, made of noise: listing, loading, memory, and the shipped recipe for a few steps.

1,000 class folders named like WordNet's ids hold JPEG files of 500x375 pixels and about 110 kB. A few in each class are
files of their own, the others are hard links to them, so that 1.28 million fit on any disk. Nothing can be learned from
noise: accuracies mean nothing. Linux only: ``python -m benchmarks.imagenet --out FOLDER``. What FOLDER holds already is
not made again.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.commands import once, settings
from benchmarks.provenance import RESULTS, Row, command_line, peak_bytes, provenance, save, usable_cores

CLASSES, PER_CLASS, DISTINCT = 1000, 1281, 3
"""Training images of each class, as ImageNet has them, and those that are files of their own."""
BATCHES = 12  # of 64 images, in each measurement
SIZE = (500, 375)  # what ImageNet's files have, on average, as the next one
FILE_BYTES = 110_000
QUALITY, GRAIN = 90, 42  # of these files are as large as this
STEPS = 12
EVERY_S = 0.25  # how often memory is looked at


def main() -> None:
    """Makes the images, measures, and writes the result file."""
    parser = command_line("benchmarks.imagenet", __doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)  # a measurement in this process
    options = parser.parse_args()
    if options.part is None:
        save(RESULTS / "imagenet.json", measure(options.out), {str(options.out): "FOLDER"})
        return
    images, workers, batches = options.out / options.part[0], int(options.part[1]), int(options.part[2])
    print(json.dumps(loaded(images, workers, batches) if batches else listed(images)))


def measure(out: Path) -> Row:
    """Everything, each in a process of its own."""
    mean_bytes = make_files(out / "few", DISTINCT)
    link_files(out / "few", out / "images", PER_CLASS)
    files = {"classes": CLASSES, "train": CLASSES * PER_CLASS, "distinct": CLASSES * DISTINCT}
    return {
        **provenance("benchmarks.imagenet", seed=0),
        "usable_cores": usable_cores(),
        "files": {**files, "val": CLASSES, "size": SIZE, "mean_bytes": mean_bytes},
        "listing": _part(out, "images", 0, 0),
        "loading": [_part(out, *what, BATCHES) for what in (("images", 0), ("images", 2), ("few", 2))],
        "run": [_command(out, words) for words in commands(out)],
    }


def _part(out: Path, *part: object) -> Row:
    words = [*map(str, part)]
    command = [sys.executable, "-m", "benchmarks.imagenet", "--out", str(out), "--part", *words]
    return once(out / "parts" / f"{'-'.join(words)}.json", lambda: dict(json.loads(_output(command)[0])))


def listed(root: Path) -> Row:
    """Time and memory of listing the files in this process."""
    from lcprune.data.files import list_folder

    before = peak_bytes()
    started = time.perf_counter()
    listing = list_folder(root)
    seconds = round(time.perf_counter() - started, 3)
    figures = {"peak_memory_bytes": peak_bytes(), "of_it_listing_bytes": peak_bytes() - before}
    return {"found": len(listing.splits["train"]), "seconds": seconds, **figures}


def commands(out: Path) -> list[list[str]]:
    """The shipped recipe, cut to a few steps of few and smaller images, and the commands after a run."""
    run = str(out / "run")
    few = {
        "train.iterations": STEPS,
        "train.evaluate_every": STEPS,
        "train.checkpoint_every": STEPS,
        "logging.every": 4,
        "data.batch_size": 8,
        "data.workers": 2,
        "data.val_size": CLASSES,
        "data.image_size": 112,  # a quarter of the pixels: 3,000 images are evaluated
        "data.resize": 128,
    }
    overrides = settings([f"{key}={value}" for key, value in few.items()])
    return [
        ["train", "resnet50_imagenet", *overrides, "--data-root", str(out / "images"), "--out", run],
        ["select", run, "--max-drop", "100"],
        ["export", run, "--format", "onnx"],
        ["predict", str(out / "run/export/sub-model-1.onnx"), str(folders(out / "images", 0)[1])],
    ]


def make_files(root: Path, per_class: int) -> float:
    """``train/CLASS/CLASS_NUMBER.JPEG``, `per_class` of them, and one in each class of ``val``.

    Returns:
        The mean size of a file in bytes.
    """
    noise = np.random.default_rng(0)
    sizes = []
    for label in range(CLASSES):
        train, val = folders(root, label)
        own = [train / f"{train.name}_{number}.JPEG" for number in range(per_class)]
        for path in (*own, val / f"ILSVRC2012_val_{label:08d}.JPEG"):
            if not path.exists():
                photograph(noise).save(path, quality=QUALITY)
            sizes.append(path.stat().st_size)
    return float(np.mean(sizes))


def link_files(few: Path, root: Path, per_class: int) -> None:
    """The same layout with `per_class` training images in each class, which are links to those in `few`."""
    for label in range(CLASSES):
        for source, target in zip(folders(few, label), folders(root, label), strict=True):
            files = sorted(source.iterdir())
            there = set(os.listdir(target))
            names = [path.name for path in files]
            if target.parent.name == "train":
                names += [f"{target.name}_{number}.JPEG" for number in range(len(files), per_class)]
            for number, name in enumerate(names):
                if name not in there:
                    os.link(files[number % len(files)], target / name)


def folders(root: Path, label: int) -> tuple[Path, Path]:
    """The folders of a class in ``train`` and in ``val``, named as WordNet's ids look, made where they are missing."""
    train, val = (root / split / f"n{1440764 + 7919 * label:08d}" for split in ("train", "val"))
    train.mkdir(parents=True, exist_ok=True)
    val.mkdir(parents=True, exist_ok=True)
    return train, val


def photograph(noise: np.random.Generator) -> Image.Image:
    """Large shapes under a grain, so that the file is as large as a photograph's."""
    shapes = Image.fromarray(noise.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    grain = noise.integers(-GRAIN, GRAIN + 1, (SIZE[1], SIZE[0], 1), dtype=np.int16)
    return Image.fromarray((np.asarray(shapes, dtype=np.int16) + grain).clip(0, 255).astype(np.uint8))


def loaded(root: Path, workers: int, batches: int) -> Row:
    """Images per second of the recipe's own batches of 64, and the memory that they take."""
    from lcprune import recipe as recipes
    from lcprune.data import sources
    from lcprune.data.loaders import TrainLoader

    before = tree_bytes(os.getpid())
    overrides = ["data.batch_size=64", f"data.workers={workers}", f"data.val_size={CLASSES}"]
    config = recipes.load("resnet50_imagenet", overrides).data
    started = time.perf_counter()
    data = sources.load(config, root, seed=0)
    opened_s = time.perf_counter() - started
    opened = tree_bytes(os.getpid())
    loader = TrainLoader(data.train, 64, "resized_crop", pad=0, seed=0, device="cpu", workers=workers)
    loader.batch(0)  # starts the workers
    with watched(os.getpid()) as seen:
        started = time.perf_counter()
        for step in range(1, batches + 1):
            images, _ = loader.batch(step)
        seconds = time.perf_counter() - started
    loader.close()
    return {
        "train": len(data.train),
        "workers": workers,
        "images_per_s": round(64 * batches / seconds, 1),
        "opened_s": round(opened_s, 2),
        "a_batch_bytes": images.numel(),
        "list_of_files_bytes": opened - before,
        "loading_bytes": max(seen) - opened,
        "peak_bytes": max(seen),
    }


@contextmanager
def watched(pid: int) -> Iterator[list[int]]:
    """Inside, the memory of a process and of those that it started is noted every quarter of a second."""
    seen: list[int] = []
    over = threading.Event()

    def watch() -> None:
        seen.append(tree_bytes(pid))
        while not over.wait(EVERY_S):
            seen.append(tree_bytes(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def tree_bytes(pid: int) -> int:
    """Memory of a process and all below it; what several share counts once (PSS)."""
    total = 0
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        folder = Path("/proc") / str(current)
        try:
            lines = (folder / "smaps_rollup").read_text().splitlines()
            waiting += [int(child) for child in (folder / "task" / str(current) / "children").read_text().split()]
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def _output(command: Sequence[str]) -> tuple[str, int]:
    """What a command prints, and the most memory of it and its workers."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, watched(process.pid) as seen:
        output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return output, max(seen)


def _command(out: Path, words: Sequence[str]) -> Row:
    def timed() -> Row:
        started = time.perf_counter()
        _, peak = _output([sys.executable, "-m", "lcprune", *words, "--json"])
        seconds = round(time.perf_counter() - started, 1)
        return {"command": " ".join(["lcprune", *words]), "seconds": seconds, "peak_bytes": peak}

    return once(out / "parts" / f"{words[0]}.json", timed)


if __name__ == "__main__":
    main()
