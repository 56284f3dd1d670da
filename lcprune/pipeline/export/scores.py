"""Exit scores on the validation and the test images: all that a calibration reads."""

from collections.abc import Callable, Mapping, Sequence
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

    def kept(self, exits: Sequence[int]) -> "ExitScores":
        """Those of these exits alone, ascending, the last of which takes every image that reaches it."""
        return ExitScores(self._each(lambda _, rows: rows.kept(exits)), tuple(self.temperatures[k] for k in exits))

    def against(self, other: "ExitScores") -> "ExitScores":
        """The same images, with drops measured from the main of `other`."""
        mains = {split: rows.main_correct for split, rows in other.any_criterion.items()}
        return ExitScores(self._each(lambda split, rows: replace(rows, main=mains[split])), self.temperatures)

    @property
    def any_criterion(self) -> dict[str, Rows]:
        """Of each split that has images; which exit is right does not depend on the criterion."""
        return next(iter(self.by_criterion.values()))

    def accuracies(self, split: str) -> tuple[float, ...]:
        """In percent, of every exit; empty where `split` has no images."""
        rows = self.any_criterion.get(split)
        return () if rows is None else tuple(map(accuracy_pct, rows.correct))

    def _each(self, change: Callable[[str, Rows], Rows]) -> dict[Criterion, dict[str, Rows]]:
        return {
            criterion: {split: change(split, rows) for split, rows in of_split.items()}
            for criterion, of_split in self.by_criterion.items()
        }


def score_logits(logits: Logits, labels: Labels, cost: CascadeCost, request: ExportRequest) -> ExitScores:
    """Exit scores of logits, by the criterion and with the temperatures of the request.

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
    """Fitted to the deciding images; 1 where the user sets the thresholds."""
    exits = len(next(iter(logits.values())))
    if not (request.progressive and request.calibrates and request.temperature):
        return (1.0,) * exits
    split = deciding_split(labels, request.use_test_split)
    return temperatures(logits[split], labels[split])
