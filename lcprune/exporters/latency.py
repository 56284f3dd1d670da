"""Latency of every exit of a graph that has not been written yet."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx import ModelProto

from lcprune_runtime.latency import Latency, in_turn, noise
from lcprune_runtime.session import ALWAYS, NEVER, open_session


def exit_latencies(cascade: ModelProto, alone: Sequence[ModelProto], runs: int) -> list[Latency]:
    """Median and 95th percentile at batch 1, one thread, one run of each in turn.

    Args:
        cascade: With thresholds as an input: the times are those of a row that leaves at each exit, main last.
        alone: Models besides, with the same image; their times come last.
        runs: Of each.
    """
    of_image, of_threshold = ([d.dim_value for d in i.type.tensor_type.shape.dim] for i in cascade.graph.input)
    image, early_exits = noise(of_image[1:]), of_threshold[0]
    forced = [[NEVER] * k + [ALWAYS] * (early_exits - k) for k in range(early_exits + 1)]
    session = _opened(cascade)
    feeds = [{"image": image, "threshold": np.asarray(row, np.float32)} for row in forced]
    calls: list[Callable[[], object]] = [partial(session.run, None, feed) for feed in feeds]
    calls += [partial(_opened(model).run, None, {"image": image}) for model in alone]
    return in_turn(calls, runs)


def _opened(model: ModelProto) -> Any:
    return open_session(model.SerializeToString(), "a cascade", threads=1)
