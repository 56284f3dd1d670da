"""The figures of the page, computed once from the stored logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lcprune.analysis.budget import Family
from lcprune.analysis.ensembles import ensembles
from lcprune.analysis.evaluate import (
    ProgressiveResult,
    accuracy_pct,
    class_accuracies_pct,
    leave_at,
)
from lcprune.analysis.reliability import Reliability, reliability
from lcprune.analysis.temperature import temperatures
from lcprune.analysis.thresholds import Rows, rows_of, simulate
from lcprune.reporting.page.subject import Setting, Subject

SWEPT = tuple(step / 100 for step in range(101))
LISTED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Common thresholds in the table."""
START = 0.9
"""The common threshold that the page begins with."""
MOST_LOST_PCT = 5.0
"""Points up to which thresholds are calibrated for the curve."""


@dataclass(frozen=True)
class Calibrated:
    """Reliability of every exit, as it is and with a temperature."""

    before: tuple[Reliability, ...]
    after: tuple[Reliability, ...] | None
    """None where there is nothing to fit a temperature on."""
    temperatures: tuple[float, ...] | None


@dataclass(frozen=True)
class Decided:
    """A setting and what it does to the images."""

    setting: Setting
    rows: Rows
    result: ProgressiveResult

    @property
    def left_at(self) -> npt.NDArray[np.int64]:
        """Where each row leaves, counted among the kept exits and main, ``(N,)``."""
        return leave_at(self.scores, self.setting.thresholds)

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """What is held against the thresholds, ``(len(kept) + 1, N)``, main last."""
        return self.rows.scores([*self.setting.exits, len(self.rows.correct) - 1])


@dataclass(frozen=True)
class Measured:
    """Everything that the sections show."""

    rows: Rows
    """With the largest probability as the score."""
    accuracies_pct: tuple[float, ...]
    ensembles: dict[str, float]
    swept: tuple[ProgressiveResult, ...]
    """One common threshold, `SWEPT`; empty where there is no early exit."""
    budgets: tuple[ProgressiveResult, ...]
    """Thresholds per exit, calibrated for growing budgets on validation; empty without it."""
    decided: tuple[Decided, ...]
    common: Decided | None
    """The threshold `START` at every exit; None where there is no early exit."""
    calibrated: Calibrated
    by_class: npt.NDArray[np.float64]
    """Percent, ``(K, classes)``."""

    @property
    def first(self) -> Decided | None:
        """The setting of the summary; None where there is no early exit."""
        return self.decided[0] if self.decided else self.common

    @property
    def illustrated(self) -> Decided | None:
        """The setting whose images are shown: the first one, but one at which images leave first and last if any."""
        known = [*self.decided, *([] if self.common is None else [self.common])]
        with_both = [one for one in known if min(one.result.exit_fractions[0], one.result.exit_fractions[-1]) > 0]
        return next(iter([*with_both, *known]), None)


def measure(subject: Subject) -> Measured:
    """The figures of a run."""
    shown = subject.shown
    rows = rows_of(shown.logits, shown.labels, subject.cost)
    early = range(len(shown.logits) - 1)
    return Measured(
        rows=rows,
        accuracies_pct=tuple(accuracy_pct(of_exit) for of_exit in rows.correct),
        ensembles=ensembles(shown.logits, shown.labels),
        swept=tuple(common_result(rows, threshold) for threshold in SWEPT) if early else (),
        budgets=_budgets(subject, rows) if early else (),
        decided=tuple(_decided(subject, setting) for setting in subject.settings),
        common=_decided(subject, _common(len(early))) if early else None,
        calibrated=_calibrated(subject, rows),
        by_class=class_accuracies_pct(rows.correct, shown.labels, len(subject.classes)),
    )


def common_result(rows: Rows, threshold: float) -> ProgressiveResult:
    """What one threshold at every early exit does."""
    early = range(len(rows.correct) - 1)
    return simulate(rows, early, [threshold] * len(early))


def _common(early: int) -> Setting:
    return Setting(f"{START:g} at every exit", "One common threshold.", tuple(range(early)), (START,) * early)


def _decided(subject: Subject, setting: Setting) -> Decided:
    shown = subject.shown
    rows = rows_of(shown.logits, shown.labels, subject.cost, setting.criterion, setting.temperatures)
    return Decided(setting, rows, simulate(rows, setting.exits, setting.thresholds))


def _budgets(subject: Subject, rows: Rows) -> tuple[ProgressiveResult, ...]:
    """The shown split at thresholds that validation finds cheapest, for growing budgets."""
    if subject.held_out is None:
        return ()
    deciding = rows_of(subject.held_out.logits, subject.held_out.labels, subject.cost)
    settings = Family({"softmax": deciding}).frontier(MOST_LOST_PCT)
    return tuple(_distinct([simulate(rows, found.exits, found.thresholds) for found in settings]))


def _distinct(results: Sequence[ProgressiveResult]) -> list[ProgressiveResult]:
    return list({(result.mean_macs, result.accuracy_pct): result for result in results}.values())


def _calibrated(subject: Subject, rows: Rows) -> Calibrated:
    before = _reliabilities(rows)
    if subject.held_out is None or subject.split == "val":
        return Calibrated(before, None, None)
    fitted = temperatures(subject.held_out.logits, subject.held_out.labels)
    scaled = rows_of(subject.shown.logits, subject.shown.labels, subject.cost, "softmax", fitted)
    return Calibrated(before, _reliabilities(scaled), fitted)


def _reliabilities(rows: Rows) -> tuple[Reliability, ...]:
    return tuple(reliability(sure, right) for sure, right in zip(rows.confidences, rows.correct, strict=True))
