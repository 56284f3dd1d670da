import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from lcprune.analysis.intervals import paired_drop_upper_pct, score_upper


def by_maximised_likelihood(lost: int, gained: int, n: int, confidence: float) -> float:
    """The same limit by brute force: the nuisance share is found by maximising the likelihood numerically."""
    z = NormalDist().inv_cdf(confidence)

    def score(drop: float) -> float:
        def minus_log_likelihood(gain: float) -> float:
            cells = [(lost, gain + drop), (gained, gain), (n - lost - gained, 1 - 2 * gain - drop)]
            return -sum(count * math.log(max(share, 1e-300)) for count, share in cells if count)

        low, high = max(0.0, -drop), (1 - drop) / 2
        gain = minimize_scalar(minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
        return (lost - gained - n * drop) / math.sqrt(n * (2 * gain + drop * (1 - drop)))

    return brentq(lambda drop: score(drop) + z, (lost - gained) / n + 1e-6, 1 - 1e-9)


@pytest.mark.parametrize(
    ("lost", "gained", "n", "confidence", "published"),
    [
        (1, 0, 44, 0.95, 0.096),  # Tango 1998, section 6.1: end of the two-sided 90% interval
        (28, 25, 618, 0.95, 0.0247),  # R's PropCIs 0.3-0, scoreci.mp(25, 28, 618, 0.90)
        (25, 28, 618, 0.95, 0.0148),  # the other end of it
        (7, 1, 21, 0.975, 0.517),  # Fagerland et al. 2014, airway data of Bentur et al. 2009, 95% two-sided
        (1, 7, 21, 0.975, -0.026),
    ],
)
def test_published_intervals(lost: int, gained: int, n: int, confidence: float, published: float) -> None:
    decimals = len(str(abs(published))) - 2
    assert round(score_upper(lost, gained, n, confidence), decimals) == published


@pytest.mark.parametrize(
    ("lost", "gained", "n"), [(3, 0, 20), (0, 4, 20), (5, 5, 40), (0, 4, 30), (12, 2, 50), (2, 9, 400)]
)
@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.999])
def test_agrees_with_a_numerically_maximised_likelihood(lost: int, gained: int, n: int, confidence: float) -> None:
    expected = by_maximised_likelihood(lost, gained, n, confidence)
    assert score_upper(lost, gained, n, confidence) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_without_any_discordant_row_the_limit_is_not_zero(n: int) -> None:
    z = NormalDist().inv_cdf(0.95)
    assert score_upper(0, 0, n, 0.95) == pytest.approx(z**2 / (n + z**2), abs=1e-9)  # the score equation by hand


def test_in_points_from_the_rows_themselves() -> None:
    reference = np.array([True] * 8 + [False] * 2)
    candidate = np.array([True] * 5 + [False] * 3 + [True, False])
    assert paired_drop_upper_pct(reference, candidate, 0.95) == 100 * score_upper(3, 1, 10, 0.95)
    assert paired_drop_upper_pct(candidate, reference, 0.95) == 100 * score_upper(1, 3, 10, 0.95)
    assert paired_drop_upper_pct(reference, candidate, 0.5) == 20.0


def test_a_worse_table_or_more_confidence_never_lowers_the_limit() -> None:
    for gained in range(5):
        limits = [score_upper(lost, gained, 12, 0.95) for lost in range(13 - gained)]
        assert all(below < above for below, above in zip(limits, limits[1:], strict=False))
    for table in ((0, 0, 12), (5, 5, 12), (12, 0, 12), (0, 12, 12)):
        limits = [score_upper(*table, confidence) for confidence in (0.5, 0.5000001, 0.9, 0.95, 0.999999)]
        assert limits == sorted(limits)
        assert -1 <= limits[0] == (table[0] - table[1]) / 12
        assert limits[-1] <= 1


def test_all_rows_lost_or_gained() -> None:
    z2 = NormalDist().inv_cdf(0.95) ** 2
    assert score_upper(10, 0, 10, 0.95) == 1.0
    assert score_upper(0, 10, 10, 0.95) == pytest.approx((z2 - 10) / (z2 + 10), abs=1e-6)


@pytest.mark.parametrize(
    ("lost", "gained", "n", "confidence"),
    [(0, 0, 0, 0.9), (-1, 0, 5, 0.9), (3, 3, 5, 0.9), (1, 1, 5, 1.0), (1, 1, 5, 0.4), (1, 1, 5, math.nan)],
)
def test_impossible_counts_and_levels_are_refused(lost: int, gained: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="pairs|confidence"):
        score_upper(lost, gained, n, confidence)


def test_rows_that_are_not_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="candidate is"):
        paired_drop_upper_pct(np.ones(3, dtype=bool), np.ones(4, dtype=bool), 0.95)
    with pytest.raises(ValueError, match="0 pairs"):
        paired_drop_upper_pct(np.ones(0, dtype=bool), np.ones(0, dtype=bool), 0.95)
