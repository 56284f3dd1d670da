"""Calibration of confidences: the reliability diagram and the expected calibration error."""

from dataclasses import dataclass

import numpy as np

from lcprune_runtime.criterion import BoolArray, FloatArray

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Accuracy of an exit by confidence."""

    counts: tuple[int, ...]
    """Rows in every bin; the bins divide 0..1 evenly, and 1 lies in the last."""
    confidence: tuple[float, ...]
    """Mean confidence of every bin, in 0..1; NaN where it is empty."""
    accuracy: tuple[float, ...]
    """Share of its rows that are right, in 0..1; NaN where it is empty."""
    ece_pct: float
    """Expected calibration error: the mean gap between the two over the rows, in points; NaN without rows."""


def reliability(confidences: FloatArray, correct: BoolArray, bins: int = BINS) -> Reliability:
    """The reliability diagram of one exit. Rows whose confidence is not finite are left out.

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
