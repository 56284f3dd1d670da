"""Latency of exported models, measured in turn so that a drift of the machine's speed affects all of them equally."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcprune_runtime.progress import tracked
from lcprune_runtime.segment_session import SegmentedSession
from lcprune_runtime.session import ALWAYS, NEVER, Floats, Images, ProgressiveSession, to_float

Session = ProgressiveSession | SegmentedSession
Call = Callable[[], Any]

WARM_UP = 10
_FINE_S = 1e-5
_clock = time.thread_time if time.get_clock_info("thread_time").resolution < _FINE_S else time.perf_counter
"""Of the thread, in which all models run: what passes where nothing else runs, whatever else does."""


@dataclass(frozen=True)
class Latency:
    """Time for one image, in ms: CPU time of the thread, where the system measures it finely enough."""

    median_ms: float
    p95_ms: float
    mean_ms: float


def compare_latency(sessions: Sequence[Session], runs: int) -> list[Latency]:
    """Latency of every model at batch 1 on a random image, one run of each in turn.

    A progressive model is run with its own thresholds. The time of segments is that of the host, too.
    """
    return in_turn([call_on(session, noise_for(session)) for session in sessions], runs)


def in_turn(calls: Sequence[Call], runs: int) -> list[Latency]:
    """Latency of every call, one run of each in turn."""
    rounds = tracked(range(WARM_UP + runs), "measuring latency")
    return latencies_of([[_timed(call)[1] for call in calls] for _ in rounds][WARM_UP:])


def on_images(sessions: Sequence[Session], images: Iterable[Sequence[Images]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Runs every model on every image in turn, at batch 1.

    Args:
        sessions: The models.
        images: For each image what every model takes, ``(1, C, H, W)``; the first `WARM_UP` run twice.

    Returns:
        Class and exit of every image, ``(images, models, 2)``, and the times in ms, ``(images, models)``.
    """
    results, times_ms = [], []
    for index, of_models in enumerate(images):
        calls = [call_on(session, to_float(image)) for session, image in zip(sessions, of_models, strict=True)]
        if index < WARM_UP:
            for call in calls:
                call()
        timed = [_timed(call) for call in calls]
        results.append([(int(logits[0].argmax()), exit_index) for (logits, exit_index), _ in timed])
        times_ms.append([taken_ms for _, taken_ms in timed])
    return np.array(results), np.array(times_ms)


def latencies_of(times_ms: Sequence[Sequence[float]] | NDArray[Any]) -> list[Latency]:
    """Of every column of ``(runs, models)``."""
    columns = np.asarray(times_ms).T
    return [Latency(*(float(value) for value in (np.median(c), np.percentile(c, 95), c.mean()))) for c in columns]


def exit_calls(session: ProgressiveSession) -> list[Call]:
    """For every exit of a progressive model a call that ends there, on a random image."""
    early, image = len(session.info.thresholds), noise_for(session)
    forced = [[NEVER] * k + [ALWAYS] * (early - k) for k in range(early + 1)]
    return [call_on(session, image, np.asarray(thresholds, np.float32)) for thresholds in forced]


def call_on(session: Session, image: Floats, thresholds: Floats | None = None) -> Call:
    """Runs the model on one image, ``(1, C, H, W)``; gives its logits ``(1, classes)`` and its exit."""
    if isinstance(session, SegmentedSession):
        return partial(_run_segments, session, image)
    runtime = session.runtime
    if thresholds is None and any(entry.name == "threshold" for entry in runtime.get_inputs()):
        thresholds = np.asarray(session.info.thresholds, np.float32)
    feed = {"image": image} if thresholds is None else {"image": image, "threshold": thresholds}
    outputs = ["logits", "exit_index"] if session.info.kind == "progressive" else ["logits"]
    return partial(_run, runtime, outputs, feed)


def noise_for(session: Session) -> Floats:
    """One random image for a model."""
    wanted = session.info.input
    return noise((wanted.channels, wanted.size, wanted.size))


def noise(shape: Sequence[int]) -> Floats:
    """One image, with a batch dimension."""
    return np.random.default_rng(0).random((1, *shape), dtype=np.float32)


def _run(runtime: Any, outputs: Sequence[str], feed: dict[str, Floats]) -> tuple[Floats, int]:
    logits, *exit_indices = runtime.run(outputs, feed)
    return logits, int(exit_indices[0][0]) if exit_indices else 0


def _run_segments(session: SegmentedSession, image: Floats) -> tuple[Floats, int]:
    result = session(image)
    return result.logits, int(result.exit_indices[0])


def _timed(call: Call) -> tuple[Any, float]:
    """What a call gives, and its time in ms."""
    start = _clock()
    result = call()
    return result, (_clock() - start) * 1000
