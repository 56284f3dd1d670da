"""Latency and size of exported models, side by side; no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcprune.exporters.latency import compare_latency
from lcprune.exporters.segment_session import MANIFEST, SegmentedSession, open_model
from lcprune.exporters.session import ProgressiveSession
from lcprune.runs import check_exported


def bench(models: Sequence[Path], runs: int) -> list[dict[str, Any]]:
    """Size and latency of every model, in turn, batch 1, one thread.

    Args:
        models: Files that `export` wrote, or folders of segments or their manifests.
        runs: Timed runs of each.

    Raises:
        OnnxModelError: If a file is no model of ours.
    """
    for path in models:
        check_exported(path)
    sessions = [open_model(path, threads=1) for path in models]
    latencies = compare_latency(sessions, runs)
    return [
        {
            "model": str(path),
            "kind": _kind(session),
            "size_bytes": _size_bytes(path),
            "latency_ms": latency.median_ms,
            "latency_p95_ms": latency.p95_ms,
            "ratio": latency.median_ms / latencies[0].median_ms,
        }
        for path, session, latency in zip(models, sessions, latencies, strict=True)
    ]


def _kind(session: ProgressiveSession | SegmentedSession) -> str:
    return "segments" if isinstance(session, SegmentedSession) else session.info.kind


def _size_bytes(path: Path) -> int:
    """Of a file, or of all segments."""
    folder = path.parent if path.name == MANIFEST else path
    return sum(file.stat().st_size for file in folder.glob("*.onnx")) if folder.is_dir() else path.stat().st_size
