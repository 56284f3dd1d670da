"""Mean, standard deviation and the Mann-Whitney test over seeds."""

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

LEVEL = 0.05
"""The paper's level of significance."""
FEWEST_SEEDS = 4
"""Per side: with three, the smallest possible p would be 0.1."""


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1); the second is None for a single value, both for none."""
    if not values:
        return None, None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def mann_whitney(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """An exact two-sided test whether one side tends to be higher than the other: ``u``, ``p``, ``significant``.

    They are None, and ``reason`` says why, where no outcome could be significant.
    """
    fewest = min(len(one), len(other))
    if fewest < FEWEST_SEEDS:
        smallest = f" (the smallest p there is: {2 / comb(2 * fewest, fewest):.2f})" if fewest else ""
        reason = (
            f"{fewest} seed{'s' * (fewest != 1)} a side cannot be significant at {LEVEL}{smallest}; "
            f"it takes {FEWEST_SEEDS} or more"
        )
        return {"u": None, "p": None, "significant": None, "reason": reason}
    found = mannwhitneyu(one, other, alternative="two-sided", method="exact")
    p = float(found.pvalue)
    return {"u": float(found.statistic), "p": p, "significant": p < LEVEL, "reason": None}
