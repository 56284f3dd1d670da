"""Folds put together: accuracy on all test images with standard errors, paired differences, and what is chosen.

A *file* here is what one name stands for in every fold, such as ``plain 96 px, int8``. The validation images of a fold
choose for that fold.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.provenance import Row

Right = npt.NDArray[np.float64]
"""Of every image, 1 where the class was right, else 0, ``(N,)``."""


def accuracy(right: Right) -> Row:
    """In percent, with its standard error in points."""
    return {"test_accuracy_pct": 100 * float(right.mean()), "se_pct": _standard_error(right)}


def difference(ours: Right, theirs: Right) -> Row:
    """Points by which `ours` is better, with the standard error of the differences image by image.

    Raises:
        ValueError: If they are not of the same images.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"{ours.shape} and {theirs.shape} are not the same images")
    return {"points": 100 * float((ours - theirs).mean()), "points_se": _standard_error(ours - theirs)}


def pooled(folds: Sequence[Row], names: Sequence[str]) -> Row:
    """One file of each fold, taken together: accuracy, mean latency in ms and size, over the folds' test images.

    Args:
        folds: As `measure.measured` gives them.
        names: Of a file in each.
    """
    tests = [fold["files"][name]["test"] for fold, name in zip(folds, names, strict=True)]
    sizes = [fold["files"][name]["size_bytes"] for fold, name in zip(folds, names, strict=True)]
    return {
        "folds": len(folds),
        "images": len(right(folds, names)),
        **accuracy(right(folds, names)),
        "latency_ms": float(np.mean([test["ms"] for test in tests])),
        "size_bytes": round(float(np.mean(sizes))),
    }


def right(folds: Sequence[Row], names: Sequence[str]) -> Right:
    """Of the test images of all folds."""
    tests = [fold["files"][name]["test"]["correct"] for fold, name in zip(folds, names, strict=True)]
    return np.concatenate(tests).astype(float)


def compared(folds: Sequence[Row], ours: Sequence[str], theirs: Sequence[str]) -> Row:
    """Files of ours, one of each fold, beside those of others: points and their standard error, and latency to theirs.

    The quartiles are those of single rounds.
    """
    pairs = list(zip(folds, ours, theirs, strict=True))
    rounds_ms = np.array([[fold["files"][name]["test"]["rounds_ms"] for name in names] for fold, *names in pairs])
    low, high = np.percentile(rounds_ms[:, 0].mean(axis=0) / rounds_ms[:, 1].mean(axis=0), (25, 75))
    mine, its = pooled(folds, ours), pooled(folds, theirs)
    return {
        "ours": sorted(set(ours)),
        "theirs": sorted(set(theirs)),
        **difference(right(folds, ours), right(folds, theirs)),
        "latency": {"ratio": mine["latency_ms"] / its["latency_ms"], "low": float(low), "high": float(high)},
        "size_ratio": mine["size_bytes"] / its["size_bytes"],
        **{key: mine[key] for key in ("folds", "images", "test_accuracy_pct", "latency_ms")},
    }


def best_within(fold: Row, names: Sequence[str], limit_ms: float, expected_pct: Mapping[str, float]) -> str | None:
    """Of the files that take at most `limit_ms` on the validation images, that of which most is expected."""
    quick = [name for name in names if fold["files"][name]["val"]["ms"] <= limit_ms]
    return max(quick, key=lambda name: expected_pct[name], default=None)


def quickest_at(fold: Row, names: Sequence[str], wanted_pct: float, expected_pct: Mapping[str, float]) -> str:
    """Of the files of which at least `wanted_pct` is expected, the quickest on validation; else the most accurate."""
    enough = [name for name in names if round(expected_pct[name] - wanted_pct, 6) >= 0]
    if not enough:
        return max(names, key=lambda name: expected_pct[name])
    return min(enough, key=lambda name: fold["files"][name]["val"]["ms"])


def val_accuracy_pct(fold: Row, name: str) -> float:
    """On the validation images of a fold."""
    return 100 * float(np.mean(fold["files"][name]["val"]["correct"]))


def _standard_error(values: npt.NDArray[Any]) -> float:
    """Of the mean, in points."""
    return 100 * float(values.std(ddof=1)) / float(np.sqrt(len(values)))
