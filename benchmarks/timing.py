"""Times of several workloads that run in turn in one process, and the ratios between them.

A busy machine slows all of them alike, so that a ratio is meaningful where a time is not.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Timed = Callable[[int], float]
"""Does something so many times and returns the seconds that it took."""

Spread = dict[str, float]
"""A ``median`` with the quartiles below and above it, ``low`` and ``high``."""

WARMUP = 2


def repeated(
    work: Callable[[], object], first: Callable[[], object] = lambda: None, last: Callable[[], object] = lambda: None
) -> Timed:
    """`work`, timed; `first` is called before the time starts, and `last` before it ends."""

    def seconds(count: int) -> float:
        first()
        started = time.perf_counter()
        for _ in range(count):
            work()
        last()
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
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return {"median": median, "low": low, "high": high}


def mean_latencies(
    models: Mapping[str, Path],
    images: np.ndarray[Any, Any],
    rounds: int,
    thresholds: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, list[float]]:
    """Seconds for one image in every round at batch 1 and one thread, the mean over all images, by name of the model.

    A progressive model's time depends on the image, so that many different ones are needed, and none made up.

    Args:
        models: Files, by name.
        images: ``(N, C, H, W)`` uint8.
        rounds: How often each model goes through all images.
        thresholds: Of some models, instead of their own.
    """
    from lcprune import ProgressiveSession

    plain = [{"image": image[None].astype(np.float32) / np.float32(255)} for image in images]
    timed: dict[str, Timed] = {}
    for name, path in models.items():
        own = (thresholds or {}).get(name)
        extra = {} if own is None else {"threshold": np.asarray(own, np.float32)}
        feeds = itertools.cycle([{**feed, **extra} for feed in plain])
        run = ProgressiveSession(path, threads=1).runtime.run
        timed[name] = repeated(lambda run=run, feeds=feeds: run(None, next(feeds)))
    return in_turn(timed, rounds, burst=len(images))


def to_first(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Median in ms, and the ratio to the first model, round by round, with its quartiles."""
    base = next(iter(seconds.values()))
    rows = {}
    for name, own in seconds.items():
        found = ratio(own, base)
        rows[name] = {"ms": 1000 * statistics.median(own), "ratio": found.pop("median"), **found}
    return rows
