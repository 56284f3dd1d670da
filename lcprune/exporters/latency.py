"""Latency of exported models, measured in turn so that a drift of the machine's speed meets all of them alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from onnx import ModelProto
from onnxruntime import InferenceSession

from lcprune.exporters.segment_session import SegmentedSession
from lcprune.exporters.session import ALWAYS, NEVER, Floats, ProgressiveSession, open_session

WARM_UP = 10


@dataclass(frozen=True)
class Latency:
    """Time for one image, in ms."""

    median_ms: float
    p95_ms: float


def compare_latency(sessions: Sequence[ProgressiveSession | SegmentedSession], runs: int) -> list[Latency]:
    """Median and 95th percentile of every model at batch 1, one run of each in turn.

    Random images; a progressive model is run with its own thresholds. The time of segments is that of the host, too.
    """
    return _in_turn([_call(session) for session in sessions], runs)


def exit_latencies(cascade: ModelProto, alone: Sequence[ModelProto], runs: int) -> list[Latency]:
    """Median and 95th percentile at batch 1, one thread, one run of each in turn.

    Args:
        cascade: With thresholds as an input: the times are those of a row that leaves at each exit, main last.
        alone: Models besides, with the same image; their times come last.
        runs: Of each.
    """
    of_image, of_threshold = ([d.dim_value for d in i.type.tensor_type.shape.dim] for i in cascade.graph.input)
    image, early_exits = _noise(of_image[1:]), of_threshold[0]
    forced = [[NEVER] * k + [ALWAYS] * (early_exits - k) for k in range(early_exits + 1)]
    session = _opened(cascade)
    feeds = [{"image": image, "threshold": np.asarray(row, np.float32)} for row in forced]
    calls: list[Callable[[], object]] = [partial(session.run, None, feed) for feed in feeds]
    calls += [partial(_opened(model).run, None, {"image": image}) for model in alone]
    return _in_turn(calls, runs)


def _in_turn(calls: Sequence[Callable[[], object]], runs: int) -> list[Latency]:
    times_ms = np.empty((len(calls), WARM_UP + runs))
    for run in range(WARM_UP + runs):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            times_ms[index, run] = (time.perf_counter() - start) * 1000
    timed = times_ms[:, WARM_UP:]
    return [Latency(float(np.median(row)), float(np.percentile(row, 95))) for row in timed]


def _call(session: ProgressiveSession | SegmentedSession) -> Callable[[], object]:
    """Runs the model on one image."""
    wanted = session.info.input
    image = _noise((wanted.channels, wanted.size, wanted.size))
    if isinstance(session, SegmentedSession):
        return lambda: session(image)
    session(image)  # a graph that does not run is told here, with its name
    runtime = session.runtime
    required = any(entry.name == "threshold" for entry in runtime.get_inputs())
    thresholds = {"threshold": np.asarray(session.info.thresholds, np.float32)} if required else {}
    feed = {"image": image, **thresholds}
    return lambda: runtime.run(None, feed)


def _opened(model: ModelProto) -> InferenceSession:
    return open_session(model.SerializeToString(), "a cascade", threads=1)


def _noise(shape: Sequence[int]) -> Floats:
    """One image, with a batch dimension."""
    return np.random.default_rng(0).random((1, *shape), dtype=np.float32)
