"""Thresholds that let as many images leave as elsewhere, and latencies as ratios to the first model."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import edge
from benchmarks.timing import mean_latencies, to_first
from lcprune.analysis.evaluate import leave_at
from lcprune_runtime.criterion import scores


@pytest.mark.parametrize("fractions", [(0.5, 0.25, 0.25), (0.0, 0.1, 0.9), (1.0, 0.0, 0.0), (0.3, 0.0, 0.7)])
def test_thresholds_give_the_fractions(fractions: tuple[float, ...]) -> None:
    logits = np.random.default_rng(0).normal(size=(4, 200, 10)).astype(np.float32)
    thresholds = edge.thresholds_for(logits, [0, 2], fractions)
    left_at = leave_at(scores(logits)[0][[0, 2, 3]], thresholds)
    assert np.bincount(left_at, minlength=3).tolist() == [round(200 * share) for share in fractions]


def test_latencies_are_held_against_the_first(run: Path) -> None:
    model = run / "export/progressive.onnx"
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    seconds = mean_latencies({"a": model, "b": model}, images, 3, {"b": [edge.NEVER] * 3})
    assert list(map(len, seconds.values())) == [3, 3]
    rows = to_first(seconds)
    assert rows["a"]["ratio"] == rows["a"]["low"] == rows["a"]["high"] == 1
    assert rows["b"]["low"] <= rows["b"]["ratio"] <= rows["b"]["high"]
    assert rows["a"]["ms"] == pytest.approx(1000 * np.median(seconds["a"]))
