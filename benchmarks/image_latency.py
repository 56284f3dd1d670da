"""Mean time of an image, batch 1, one thread, of several ONNX models that take turns on the same images.

A progressive model's time depends on the image, so that many different ones are needed, and none made up.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import Side, Spread, in_turn, ratio
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
    sides: dict[str, Side] = {}
    for name, path in models.items():
        own = (thresholds or {}).get(name)
        extra: Feed = {} if own is None else {"threshold": np.asarray(own, np.float32)}
        sides[name] = _side(ProgressiveSession(path, threads=1).runtime.run, [{**feed, **extra} for feed in plain])
    return in_turn(sides, rounds, burst=len(images))


def to_first(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Median in ms, and the ratio to the first model, round by round, with its quartiles."""
    base = next(iter(seconds.values()))
    return {name: {"ms": 1000 * float(np.median(own)), **_as_row(ratio(own, base))} for name, own in seconds.items()}


def _as_row(found: Spread) -> dict[str, float]:
    return {"ratio": found.median, "low": found.low, "high": found.high}


def _side(run: Callable[[None, Feed], Any], feeds: Sequence[Feed]) -> Side:
    def side(count: int) -> float:
        started = time.perf_counter()
        for feed in feeds[:count]:
            run(None, feed)
        return time.perf_counter() - started

    return side
