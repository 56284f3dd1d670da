"""Times of several workloads that run in turn in one process, and the ratios between them.

A busy machine slows all of them alike, so that a ratio is meaningful where a time is not.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Timed = Callable[[int], float]
"""Does something so many times and returns the seconds that it took."""

WARMUP = 2


@dataclass(frozen=True)
class Spread:
    """A median with the quartiles below and above it."""

    median: float
    low: float
    high: float


def repeated(work: Callable[[], object], first: Callable[[], object] | None = None) -> Timed:
    """`work`, timed; `first` is called before the time starts."""

    def seconds(count: int) -> float:
        if first is not None:
            first()
        started = time.perf_counter()
        for _ in range(count):
            work()
        return time.perf_counter() - started

    return seconds


def in_turn(timed: Mapping[str, Timed], rounds: int, burst: int = 1) -> dict[str, list[float]]:
    """Seconds of one repetition of each in every round, after two rounds that do not count.

    Every second round runs backwards, so that a machine that slows down slows all of them alike.

    Args:
        timed: What is measured, by name.
        rounds: How often each has its turn.
        burst: Repetitions in a turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for index in range(WARMUP + rounds):
        for name in sorted(timed, key=list(timed).index, reverse=index % 2 == 1):
            taken = timed[name](burst) / burst
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
