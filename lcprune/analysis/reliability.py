"""Whether confidences mean what they say, and which classes an exit knows."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Reliability:
    """How often an exit is right among the rows of which it is about equally sure."""

    counts: tuple[int, ...]
    """Rows in every bin; the bins divide 0..1 evenly, and 1 lies in the last."""
    confidence: tuple[float, ...]
    """Mean confidence of every bin, in 0..1; NaN where it is empty."""
    accuracy: tuple[float, ...]
    """Share of its rows that are right, in 0..1; NaN where it is empty."""
    ece_pct: float
    """Expected calibration error: the mean gap between the two over the rows, in points; NaN without rows."""


def reliability(confidences: FloatArray, correct: BoolArray, bins: int = BINS) -> Reliability:
    """The reliability diagram of one exit. Rows whose confidence is not finite have no say.

    Source: Guo et al. 2017, arXiv:1706.04599, Eq. (1) to (3).

    Args:
        confidences: ``(N,)``, in 0..1.
        correct: ``(N,)``.
        bins: Number of bins.

    Raises:
        ValueError: If the shapes differ or there is no bin.
    """
    if confidences.shape != correct.shape or confidences.ndim != 1 or bins < 1:
        raise ValueError(f"confidences {confidences.shape} and correct {correct.shape} make no {bins} bins")
    finite = np.isfinite(confidences)
    values, right = confidences[finite].astype(np.float64), correct[finite]
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        confidence = np.bincount(place, weights=values, minlength=bins) / counts
        accuracy = np.bincount(place, weights=right, minlength=bins) / counts
        ece_pct = 100 * float(np.nansum(counts * np.abs(accuracy - confidence)) / np.float64(len(values)))
    return Reliability(
        tuple(counts.tolist()), tuple(confidence.tolist()), tuple(accuracy.tolist()), ece_pct if len(values) else np.nan
    )


def class_accuracies_pct(correct: BoolArray, labels: IntArray, classes: int) -> npt.NDArray[np.float64]:
    """Accuracy of every exit on the rows of every class, ``(K, classes)``; NaN where a class has no rows.

    Args:
        correct: ``(K, N)``.
        labels: ``(N,)``, from 0 to ``classes - 1``.
        classes: How many there are.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    if correct.ndim != 2 or labels.shape != correct.shape[1:]:
        raise ValueError(f"labels are {labels.shape} but correct is {correct.shape}")
    rows = np.bincount(labels, minlength=classes)
    right = np.stack([np.bincount(labels[of_exit], minlength=classes) for of_exit in correct])
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracies: npt.NDArray[np.float64] = 100 * right / rows
    return accuracies
