"""Mean, standard deviation and the Mann-Whitney test over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from scipy.stats import mannwhitneyu

LEVEL = 0.05
"""The paper's level of significance."""
FEWEST_SEEDS = 4
"""A side: with three, the smallest p that there is would be 0.1."""


@dataclass(frozen=True)
class Comparison:
    """A two-sided Mann-Whitney test, exact."""

    u: float | None
    p: float | None
    """None where no outcome could have been significant."""
    reason: str | None
    """Why there is no p."""


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1); the second is None for a single value, both for none."""
    if not values:
        return None, None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def mann_whitney(one: Sequence[float], other: Sequence[float]) -> Comparison:
    """Whether one side tends to be higher than the other; nothing is computed that could not be significant."""
    fewest = min(len(one), len(other))
    if fewest < FEWEST_SEEDS:
        smallest = f" (the smallest p there is: {2 / comb(2 * fewest, fewest):.2f})" if fewest else ""
        return Comparison(
            None,
            None,
            f"{fewest} seed{'s' * (fewest != 1)} a side cannot be significant at {LEVEL}{smallest}; "
            f"it takes {FEWEST_SEEDS} or more",
        )
    found = mannwhitneyu(one, other, alternative="two-sided", method="exact")
    return Comparison(float(found.statistic), float(found.pvalue), None)
