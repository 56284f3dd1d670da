"""Sides take turns, and ratios are those of the rounds."""

import pytest

from benchmarks.timing import in_turn, ratio, spread


def test_sides_take_turns_there_and_back_and_two_rounds_do_not_count() -> None:
    calls = []

    def side(name: str, seconds: float):
        def run(times: int) -> float:
            calls.append((name, times))
            return seconds * times + (100 if len(calls) <= 4 else 0)  # the first two rounds are slow

        return run

    seconds = in_turn({"b": side("b", 1.0), "a": side("a", 2.0)}, rounds=2, burst=4)
    assert seconds == {"b": [1.0, 1.0], "a": [2.0, 2.0]}
    assert calls == [(name, 4) for name in ("b", "a", "a", "b", "b", "a", "a", "b")]


def test_a_ratio_is_taken_round_by_round() -> None:
    assert ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == {"median": 3.0, "low": 2.5, "high": 3.5}  # of 2, 3 and 4


@pytest.mark.parametrize(("values", "median", "low", "high"), [([7.0], 7, 7, 7), ([1.0, 2.0, 3.0, 4.0, 5.0], 3, 2, 4)])
def test_a_spread_has_the_quartiles(values: list[float], median: float, low: float, high: float) -> None:
    assert spread(values) == {"median": median, "low": low, "high": high}
