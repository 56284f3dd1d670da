"""Latencies are measured in turn."""

from pathlib import Path

import pytest

from lcprune_runtime import latency
from lcprune_runtime.session import ProgressiveSession


def test_every_model_gets_its_own_median(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = iter(range(1000))  # the clock is read twice a run, one second apart

    def clock() -> float:
        return float(next(times_s))

    monkeypatch.setattr(latency, "_clock", clock)
    measured = latency.compare_latency(
        [ProgressiveSession(exported, threads=1), ProgressiveSession(exported, threads=1)], 5
    )
    assert [(row.median_ms, row.p95_ms) for row in measured] == [(1000.0, 1000.0)] * 2
