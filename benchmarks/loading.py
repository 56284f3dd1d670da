"""How fast images are read from files: without a cache, and with one that was filled in the epoch before.

It writes JPEG files of noise into a temporary folder and removes them. Nothing is trained: the figure is what the
loader alone can give. Run it from the root of the repository: ``python -m benchmarks.loading``.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.provenance import RESULTS, provenance, save
from lcprune.data import sources
from lcprune.data.loaders import TrainLoader
from lcprune.recipe import DataConfig

SIZE = (500, 375)  # what ImageNet's files have, on average
BATCH = 32


def main() -> None:
    """Measures, and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=320)
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    parser.add_argument("--result", type=Path, default=RESULTS / "loading.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lcprune-loading-") as name:
        make_files(Path(name), options.files)
        rows = [
            epochs(Path(name), cache, workers) for workers in options.workers for cache in ("none", "memory", "disk")
        ]
    result = {
        **provenance("benchmarks.loading", seed=0),
        "usable_cores": len(os.sched_getaffinity(0)),
        "files": options.files,
        "file_size": SIZE,
        "recipe": "image_size 224, resize 256, resized_crop, batch 32",
        "rows": rows,
    }
    save(options.result, result)


def make_files(root: Path, files: int) -> None:
    """Smooth noise, so that files are as large as photographs are."""
    noise = np.random.default_rng(0)
    for number in range(files):
        small = Image.fromarray(noise.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        folder = root / "train" / f"class_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        small.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)


def epochs(root: Path, cache: str, workers: int) -> dict[str, object]:
    """Images per second in the first and in the second epoch."""
    os.environ["LCPRUNE_CACHE"] = str(root / f"cache-{workers}")
    keys = {"image_size": 224, "crop": "center", "resize": 256, "augment": "resized_crop", "normalize": "imagenet"}
    config = DataConfig.model_validate({"source": "imagefolder", "cache": cache, "workers": workers, **keys})
    data = sources.load(config, root, seed=0)
    loader = TrainLoader(data.train, BATCH, "resized_crop", pad=0, seed=0, device="cpu", workers=workers)
    speeds = []
    for epoch in range(2):
        steps = range(epoch * loader.steps_per_epoch, (epoch + 1) * loader.steps_per_epoch)
        started = time.perf_counter()
        for step in steps:
            loader.batch(step)
        speeds.append(round(len(steps) * BATCH / (time.perf_counter() - started), 1))
    loader.close()
    return {"cache": cache, "workers": workers, "first_images_per_s": speeds[0], "second_images_per_s": speeds[1]}


if __name__ == "__main__":
    main()
