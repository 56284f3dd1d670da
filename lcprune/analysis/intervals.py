"""Confidence intervals of a drop in accuracy, for two networks on the same images."""

import math
from statistics import NormalDist

import numpy as np
from scipy.optimize import brentq

from lcprune_runtime.criterion import BoolArray

OFF_THE_ESTIMATE = 1e-12
"""How far above the observed drop the search starts: at the drop itself the score may be 0 / 0."""


def paired_drop_upper_pct(reference_correct: BoolArray, candidate_correct: BoolArray, confidence: float) -> float:
    """Upper end of the one-sided interval of reference accuracy - candidate accuracy, in percentage points.

    Source: Tango 1998, Statistics in Medicine 17:891-908, Eqs. (24)-(26): the score interval for the difference
    of two paired proportions. It is above 0 also when the two never disagree, where a bootstrap or Wald's
    interval gives 0.

    Args:
        reference_correct: Whether the reference is right on each image, ``(N,)``.
        candidate_correct: The same for the candidate, image by image.
        confidence: In [0.5, 1); 0.5 gives the observed drop.

    Raises:
        ValueError: If the shapes differ or are empty, or ``confidence`` is out of its range.
    """
    if reference_correct.shape != candidate_correct.shape or reference_correct.ndim != 1:
        raise ValueError(f"reference is {reference_correct.shape} but candidate is {candidate_correct.shape}")
    lost = int(np.count_nonzero(reference_correct & ~candidate_correct))
    gained = int(np.count_nonzero(candidate_correct & ~reference_correct))
    return 100 * score_upper(lost, gained, len(reference_correct), confidence)


def score_upper(lost: int, gained: int, n: int, confidence: float) -> float:
    """Largest difference in [-1, 1] that Tango's one-sided score test does not reject.

    Args:
        lost: Pairs that only the reference has right.
        gained: Pairs that only the candidate has right.
        n: All pairs.
        confidence: In [0.5, 1).

    Raises:
        ValueError: If these are no counts of ``n`` pairs, or ``confidence`` is out of its range.
    """
    if n < 1 or min(lost, gained) < 0 or lost + gained > n:
        raise ValueError(f"{lost} lost and {gained} gained are no counts of {n} pairs")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence {confidence} is not in [0.5, 1)")
    z = NormalDist().inv_cdf(confidence)
    start = (lost - gained) / n + OFF_THE_ESTIMATE
    if start >= 1 or _score_excess(start, lost, gained, n, z) <= 0:  # z is 0, or too small to move the drop
        return (lost - gained) / n
    return float(brentq(_score_excess, start, 1.0, args=(lost, gained, n, z), xtol=1e-15, rtol=1e-14))


def _score_excess(drop: float, lost: int, gained: int, n: int, z: float) -> float:
    """Score at a true ``drop`` plus ``z`` standard errors: positive while the test does not reject ``drop``."""
    variance = n * max(0.0, 2 * _gain_probability(drop, lost, gained, n) + drop * (1 - drop))
    return lost - gained - n * drop + z * math.sqrt(variance)


def _gain_probability(drop: float, lost: int, gained: int, n: int) -> float:
    """Most likely share of pairs that only the candidate has right (Tango's q21) if the true drop is ``drop``.

    The positive root of ``2n q^2 + b q - c = 0``, written so that nothing cancels.
    """
    b = (2 * n - lost + gained) * drop - (lost + gained)
    c = gained * drop * (1 - drop)
    root = math.sqrt(max(0.0, b * b + 8 * n * c))
    return 2 * c / (b + root) if b > 0 else (root - b) / (4 * n)
