"""What `evaluate` says of progressive inference, with the contract's keys, of a run and of a file alike; no torch."""

from collections.abc import Sequence
from typing import Any

from lcprune.analysis.evaluate import ProgressiveResult


def progressive_rows(results: Sequence[ProgressiveResult]) -> list[dict[str, Any]]:
    """Progressive inference at one threshold for all exits, a row for each result."""
    return [
        {
            "threshold": result.thresholds[0],
            "accuracy_pct": result.accuracy_pct,
            "mean_macs": result.mean_macs,
            "macs_ratio": result.macs_ratio,
            "exit_fractions": list(result.exit_fractions),
        }
        for result in results
    ]
