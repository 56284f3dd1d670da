"""Mean time of an image, batch 1, one thread, of several ONNX models that take turns on the same images.

A progressive model's time depends on the image, so that many different ones are needed, and none made up.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import Timed, in_turn, ratio
from lcprune import ProgressiveSession

Feed = Mapping[str, np.ndarray[Any, Any]]


def mean_latencies(
    models: Mapping[str, Path],
    images: np.ndarray[Any, Any],
    rounds: int,
    thresholds: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, list[float]]:
    """Seconds for one image in every round, the mean over all images, by the name of the model.

    Args:
        models: Files, by name.
        images: ``(N, C, H, W)`` uint8.
        rounds: How often each model goes through all images.
        thresholds: Of some models, instead of their own.
    """
    plain = [{"image": image[None].astype(np.float32) / np.float32(255)} for image in images]
    timed: dict[str, Timed] = {}
    for name, path in models.items():
        own = (thresholds or {}).get(name)
        extra: Feed = {} if own is None else {"threshold": np.asarray(own, np.float32)}
        timed[name] = _passes(ProgressiveSession(path, threads=1).runtime.run, [{**feed, **extra} for feed in plain])
    return in_turn(timed, rounds, burst=len(images))


def to_first(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Median in ms, and the ratio to the first model, round by round, with its quartiles."""
    base = next(iter(seconds.values()))
    rows = {}
    for name, own in seconds.items():
        found = ratio(own, base)
        ms = 1000 * float(np.median(own))
        rows[name] = {"ms": ms, "ratio": found.median, "low": found.low, "high": found.high}
    return rows


def _passes(run: Callable[[None, Feed], Any], feeds: Sequence[Feed]) -> Timed:
    def seconds(count: int) -> float:
        started = time.perf_counter()
        for feed in feeds[:count]:
            run(None, feed)
        return time.perf_counter() - started

    return seconds
