"""Latency of exported models, measured in turn so that a drift of the machine's speed meets all of them alike."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lcprune.export.session import OnnxClassifier

WARM_UP = 10


@dataclass(frozen=True)
class Latency:
    """Time for one image, in ms."""

    median_ms: float
    p95_ms: float


def compare_latency(classifiers: Sequence[OnnxClassifier], runs: int) -> list[Latency]:
    """Median and 95th percentile of every model at batch 1, one run of each in turn.

    Random images; a progressive model is run with its own thresholds.
    """
    feeds = [_feed(classifier) for classifier in classifiers]
    times_ms = np.empty((len(classifiers), WARM_UP + runs))
    for run in range(WARM_UP + runs):
        for index, (classifier, feed) in enumerate(zip(classifiers, feeds, strict=True)):
            start = time.perf_counter()
            classifier.session.run(None, feed)
            times_ms[index, run] = (time.perf_counter() - start) * 1000
    timed = times_ms[:, WARM_UP:]
    return [Latency(float(np.median(row)), float(np.percentile(row, 95))) for row in timed]


def _feed(classifier: OnnxClassifier) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    wanted = classifier.info.input
    image = np.random.default_rng(0).random((1, wanted.channels, wanted.size, wanted.size), dtype=np.float32)
    required = any(entry.name == "threshold" for entry in classifier.session.get_inputs())
    thresholds = {"threshold": np.asarray(classifier.info.thresholds, np.float32)} if required else {}
    return {"image": image, **thresholds}
