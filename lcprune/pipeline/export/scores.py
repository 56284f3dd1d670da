"""What the logits of a cascade say of the validation and the test images: all that a calibration reads."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.evaluate import accuracy_pct
from lcprune.analysis.temperature import temperatures
from lcprune.analysis.thresholds import Rows, rows_of
from lcprune.pipeline.export.request import ExportRequest
from lcprune.pipeline.select import deciding_split
from lcprune.specs import CRITERIA, Criterion

Logits = dict[str, np.ndarray[Any, Any]]
"""Of ``val`` and ``test``, ``(K, N, C)``; N may be 0."""
Labels = Mapping[str, np.ndarray[Any, Any]]
"""Of ``val`` and ``test``, ``(N,)``."""


@dataclass(frozen=True)
class ExitScores:
    """Confidence and correctness of every image at every exit."""

    by_criterion: dict[Criterion, dict[str, Rows]]
    """For every criterion that may decide, of ``val`` and ``test`` where they have images."""
    temperatures: tuple[float, ...]
    """Of all exits, main last."""

    def truncated(self, k: int) -> "ExitScores":
        """Those of the first `k` exits alone."""
        return ExitScores(
            {
                criterion: {split: rows.truncated(k) for split, rows in of_split.items()}
                for criterion, of_split in self.by_criterion.items()
            },
            self.temperatures[:k],
        )

    def against(self, other: "ExitScores") -> "ExitScores":
        """The same rows, with drops measured from the main of `other`."""
        return ExitScores(
            {
                criterion: {split: replace(rows, main=other.main_correct(split)) for split, rows in of_split.items()}
                for criterion, of_split in self.by_criterion.items()
            },
            self.temperatures,
        )

    def main_correct(self, split: str) -> np.ndarray[Any, Any] | None:
        """Whether main is right about each image, ``(N,)``; None where `split` has no images."""
        rows = next(iter(self.by_criterion.values())).get(split)
        return None if rows is None else rows.main_correct

    def correct(self, split: str) -> np.ndarray[Any, Any] | None:
        """Whether each exit is right about each image, ``(K, N)``; None where `split` has no images."""
        rows = next(iter(self.by_criterion.values())).get(split)
        return None if rows is None else rows.correct

    def accuracies(self, split: str) -> tuple[float, ...]:
        """In percent, of every exit; empty where `split` has no images."""
        correct = self.correct(split)
        return () if correct is None else tuple(map(accuracy_pct, correct))


def score_logits(logits: Logits, labels: Labels, cost: CascadeCost, request: ExportRequest) -> ExitScores:
    """Reads logits as the request wants them held against thresholds.

    Args:
        logits: Each split is dropped from it once it is read: it may be large.
        labels: Of the same splits.
        cost: Of the cascade.
        request: Names criterion, temperatures and who decides.

    Raises:
        RunError: If temperatures are to be fitted and no images were held out.
    """
    fitted = _fit_temperatures(logits, labels, request)
    criteria = CRITERIA if request.criterion == "auto" else (request.criterion,)
    read: dict[Criterion, dict[str, Rows]] = {criterion: {} for criterion in criteria}
    for split in sorted(logits, reverse=True):
        of_split = logits.pop(split)
        for criterion in criteria:
            if len(labels[split]):
                read[criterion][split] = rows_of(of_split, labels[split], cost, criterion, fitted)
    return ExitScores(read, fitted)


def _fit_temperatures(logits: Logits, labels: Labels, request: ExportRequest) -> tuple[float, ...]:
    """Those that make the probabilities of the deciding images true; 1 where the user names the thresholds."""
    exits = len(next(iter(logits.values())))
    if not (request.progressive and request.calibrates and request.temperature):
        return (1.0,) * exits
    split = deciding_split(labels, request.use_test_split)
    return temperatures(logits[split], labels[split])
