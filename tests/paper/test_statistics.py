"""Statistics over seeds, by hand."""

import pytest

from lcprune.paper.statistics import mann_whitney, mean_and_std


def test_mean_and_sample_standard_deviation() -> None:
    assert mean_and_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5))  # (4 + 1 + 9) / 2
    assert mean_and_std([4.5]) == (4.5, None)
    assert mean_and_std([]) == (None, None)


def test_two_sides_that_do_not_overlap() -> None:
    found = mann_whitney([5, 6, 7, 8, 9], [0, 1, 2, 3, 4])
    assert found == {
        "u": 25.0,
        "p": pytest.approx(2 / 252),
        "significant": True,
        "reason": None,
    }  # 2 of 10! / (5! 5!) orders
    assert mann_whitney([1, 2, 3, 4], [5, 6, 7, 8])["p"] == pytest.approx(2 / 70)


def test_overlap_is_not_significant() -> None:
    found = mann_whitney([1, 3, 5, 7], [2, 4, 6, 8])
    assert found["p"] == pytest.approx(2 * 24 / 70)  # U = 6: 24 of 70 orders have U <= 6
    assert found["significant"] is False


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (3, "3 seeds a side cannot be significant at 0.05 (the smallest p there is: 0.10); it takes 4 or more"),
        (1, "1 seed a side cannot be significant at 0.05 (the smallest p there is: 1.00); it takes 4 or more"),
        (0, "0 seeds a side cannot be significant at 0.05; it takes 4 or more"),
    ],
)
def test_too_few_seeds_give_no_p(count: int, said: str) -> None:
    found = mann_whitney([float(value) for value in range(count)], [9.0] * 5)
    assert found == {"u": None, "p": None, "significant": None, "reason": said}
