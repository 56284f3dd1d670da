"""Times of several things that run in turn in one process, and the ratios between them.

A busy machine slows all sides alike, so that a ratio says something where a time does not.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Side = Callable[[int], float]
"""Does something so many times and returns the seconds that it took."""

WARMUP = 2


@dataclass(frozen=True)
class Spread:
    """A median with the quartiles below and above it."""

    median: float
    low: float
    high: float


def in_turn(sides: Mapping[str, Side], rounds: int, burst: int = 1) -> dict[str, list[float]]:
    """Seconds of one repetition of every side in every round, after two rounds that do not count.

    Every second round runs backwards, so that a machine that slows down slows all sides alike.

    Args:
        sides: What is measured, by name.
        rounds: How often each side has its turn.
        burst: Repetitions in a turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(WARMUP + rounds):
        for name in sorted(sides, key=list(sides).index, reverse=index % 2 == 1):
            taken = sides[name](burst) / burst
            if index >= WARMUP:
                seconds[name].append(taken)
    return seconds


def ratio(first: Sequence[float], second: Sequence[float]) -> Spread:
    """First over second, round by round."""
    return spread([a / b for a, b in zip(first, second, strict=True)])


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)
