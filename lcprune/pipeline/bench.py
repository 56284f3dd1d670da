"""Latency and size of exported models, side by side; no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcprune.export.latency import compare_latency
from lcprune.export.session import OnnxClassifier


def bench(models: Sequence[Path], runs: int) -> list[dict[str, Any]]:
    """Size and latency of every model, in turn, batch 1, one thread.

    Raises:
        OnnxModelError: If a file is no model of ours.
    """
    classifiers = [OnnxClassifier(path, threads=1) for path in models]
    latencies = compare_latency(classifiers, runs)
    return [
        {
            "model": str(path),
            "kind": classifier.info.kind,
            "size_bytes": path.stat().st_size,
            "latency_ms": latency.median_ms,
            "latency_p95_ms": latency.p95_ms,
            "ratio": latency.median_ms / latencies[0].median_ms,
        }
        for path, classifier, latency in zip(models, classifiers, latencies, strict=True)
    ]
