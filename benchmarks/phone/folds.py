"""The photographs, in folds whose test images are disjoint: each a table that `source: manifest` reads too."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lcprune_runtime.files import list_classes
from lcprune_runtime.images import read_image

TEST, VAL = 0.2, 0.125
"""Shares of all images; the others are for training."""

Labels = npt.NDArray[np.int64]
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """Some of the images at one size."""

    images: Images
    """``(N, 3, size, size)``."""
    labels: Labels
    """``(N,)``."""


def quotas(counts: Sequence[int], share: float) -> list[int]:
    """How many images of every class make up this share of all of them, by largest remainders."""
    wanted = share * np.asarray(counts)
    found = np.floor(wanted).astype(int)
    missing = round(float(wanted.sum())) - int(found.sum())
    found[np.argsort(found - wanted, kind="stable")[:missing]] += 1
    return found.tolist()


def splits(labels: Labels, folds: int, seed: int) -> list[dict[str, Labels]]:
    """Indices of the ``train``, ``val`` and ``test`` images of every fold; all parts have the classes' proportions.

    Raises:
        ValueError: If so many folds have no disjoint test images.
    """
    rng, counts = np.random.default_rng(seed), np.bincount(labels)
    tests, vals = quotas(counts, TEST), quotas(counts, VAL)
    if any(folds * test > count for test, count in zip(tests, counts, strict=True)):
        raise ValueError(f"{folds} folds of {TEST:g} of the images have no disjoint test images")
    orders = [rng.permutation(np.flatnonzero(labels == label)) for label in range(len(counts))]
    found = []
    for fold in range(folds):
        parts: dict[str, list[Labels]] = {"train": [], "val": [], "test": []}
        for order, test, val in zip(orders, tests, vals, strict=True):
            rest = rng.permutation(np.delete(order, slice(fold * test, (fold + 1) * test)))
            parts["test"].append(order[fold * test : (fold + 1) * test])
            parts["val"].append(rest[:val])
            parts["train"].append(rest[val:])
        found.append({name: np.sort(np.concatenate(part)) for name, part in parts.items()})
    return found


def write_tables(data: Path, work: Path, folds: int, seed: int) -> list[Path]:
    """A table for every fold, with the paths of the images in `data`, one folder for each class."""
    files, classes = list_classes(data.resolve(), None)
    paths, tables = [str(path) for path in files], []
    for fold, parts in enumerate(splits(files.labels, folds, seed)):
        split_of = {int(index): name for name, part in parts.items() for index in part}
        table = work / f"fold-{fold}.csv"
        with table.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "label", "split"])
            rows.writerows([path, classes[files.labels[i]], split_of[i]] for i, path in enumerate(paths))
        tables.append(table)
    return tables


def read_parts(table: Path, size: int, names: Sequence[str] = ("train", "val", "test")) -> dict[str, Part]:
    """The images of a fold, resized from the files as lcprune's preparation does; labels by the classes' names."""
    with table.open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    classes = sorted({row["label"] for row in rows})
    parts = {}
    for name in names:
        chosen = [row for row in rows if row["split"] == name]
        images = np.stack([read_image(Path(row["path"]), size, 3) for row in chosen])
        parts[name] = Part(images, np.array([classes.index(row["label"]) for row in chosen]))
    return parts
