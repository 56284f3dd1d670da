"""Write a few of the embedded test digits as PNG files, for `lcprune predict`.

    python examples/digit_images.py FOLDER [--count 12]

A file is called LABEL_INDEX.png, such as 7_005.png: the index counts the test images.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from lcprune.data.sources import Split, read_digits


def main() -> None:
    """Read the command line and write the files."""
    _, test = read_digits()
    parser = argparse.ArgumentParser(description="Write a few of the embedded test digits as PNG files.")
    parser.add_argument("folder", type=Path, help="made where it does not exist")
    parser.add_argument("--count", type=int, default=12, help=f"images to write, 1 to {len(test)} (default: 12)")
    arguments = parser.parse_args()
    if not 1 <= arguments.count <= len(test):
        parser.error(f"--count must be in 1 to {len(test)}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for index in spread_over_classes(test)[: arguments.count]:
        path = arguments.folder / f"{test.labels[index]}_{index:03d}.png"
        Image.fromarray(test.images[index, 0]).save(path)
        print(path)


def spread_over_classes(split: Split) -> list[int]:
    """All indices: the first image of every class, then the second of every class, and so on."""
    turns = np.zeros(len(split), dtype=np.int64)
    for label in np.unique(split.labels):
        of_class = np.flatnonzero(split.labels == label)
        turns[of_class] = np.arange(len(of_class))
    return [int(index) for index in np.lexsort((split.labels, turns))]


if __name__ == "__main__":
    main()
