"""How fast images are read from files: without a cache, and with one that was filled in the epoch before.

It writes JPEG files of noise into a temporary folder and removes them. Nothing is trained: the figure is what the
loader alone can give. Run it from the root of the repository: ``python -m benchmarks.loading``.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.provenance import RESULTS, command_line, provenance, save, usable_cores
from lcprune.data import sources
from lcprune.data.loaders import TrainLoader
from lcprune.recipe import DataConfig

SIZE = (500, 375)  # what ImageNet's files have, on average
BATCH, FILES = 32, 320


def main() -> None:
    """Measures, and writes the result file."""
    command_line("benchmarks.loading", __doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="lcprune-loading-") as name:
        make_files(Path(name))
        rows = [epochs(Path(name), cache) for cache in ("none", "memory", "disk")]
    result = {
        **provenance("benchmarks.loading", seed=0),
        "usable_cores": usable_cores(),
        "files": FILES,
        "file_size": SIZE,
        "recipe": "image_size 224, resize 256, resized_crop, batch 32",
        "rows": rows,
    }
    save(RESULTS / "loading.json", result)


def make_files(root: Path) -> None:
    """Smooth noise, so that files are as large as photographs are."""
    noise = np.random.default_rng(0)
    for number in range(FILES):
        small = Image.fromarray(noise.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        folder = root / "train" / f"class_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        small.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)


def epochs(root: Path, cache: str) -> dict[str, object]:
    """Images per second in the first and in the second epoch."""
    os.environ["LCPRUNE_CACHE"] = str(root / "cache")
    keys = {"image_size": 224, "crop": "center", "resize": 256, "augment": "resized_crop", "normalize": "imagenet"}
    config = DataConfig.model_validate({"source": "imagefolder", "cache": cache, "workers": 0, **keys})
    data = sources.load(config, root, seed=0)
    loader = TrainLoader(data.train, BATCH, "resized_crop", pad=0, seed=0, device="cpu")
    speeds = []
    for epoch in range(2):
        steps = range(epoch * loader.steps_per_epoch, (epoch + 1) * loader.steps_per_epoch)
        started = time.perf_counter()
        for step in steps:
            loader.batch(step)
        speeds.append(round(len(steps) * BATCH / (time.perf_counter() - started), 1))
    loader.close()
    return {"cache": cache, "workers": 0, "first_images_per_s": speeds[0], "second_images_per_s": speeds[1]}


if __name__ == "__main__":
    main()
