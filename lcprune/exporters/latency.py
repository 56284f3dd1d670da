"""Latency of every exit of graphs that have not been written yet."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import numpy as np
from onnx import ModelProto

from lcprune_runtime.latency import Latency, in_turn, noise
from lcprune_runtime.session import ALWAYS, NEVER, open_session


def exit_latencies(models: Sequence[ModelProto], runs: int) -> list[list[Latency]]:
    """Latencies of each model at batch 1, one thread, one run of all in turn: one for every exit, main last.

    Args:
        models: All take the same image. One with thresholds as an input has exits: a time is that of a row that leaves
            there. Any other has one time.
        runs: Of each exit.
    """
    calls = [_exit_calls(model) for model in models]
    found = in_turn([call for of_model in calls for call in of_model], runs)
    ends = [0, *accumulate(map(len, calls))]
    return [found[start:end] for start, end in zip(ends, ends[1:], strict=False)]


def _exit_calls(model: ModelProto) -> list[Callable[[], object]]:
    of_image, *of_threshold = ([d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input)
    run = open_session(model.SerializeToString(), "a cascade", threads=1).run
    feed = {"image": noise(of_image[1:])}
    if not of_threshold:
        return [partial(run, None, feed)]
    early = of_threshold[0][0]
    forced = [[NEVER] * k + [ALWAYS] * (early - k) for k in range(early + 1)]
    return [partial(run, None, {**feed, "threshold": np.asarray(row, np.float32)}) for row in forced]
