"""The figures of the page, computed once from the stored logits."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lcprune.analysis.budget import Family
from lcprune.analysis.ensembles import ensembles
from lcprune.analysis.evaluate import ProgressiveResult, accuracy_pct, class_accuracies_pct, leave_at
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
class Simulation:
    """A setting and where the images leave with it."""

    setting: Setting
    rows: Rows

    @cached_property
    def result(self) -> ProgressiveResult:
        """Accuracy, cost and shares."""
        return simulate(self.rows, self.setting.exits, self.setting.thresholds)

    @property
    def ends(self) -> list[int]:
        """``exit_index`` of the kept early exits, and last of main."""
        return [*self.setting.exits, len(self.rows.correct) - 1]

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """What is compared with the thresholds, ``(len(ends), N)``."""
        return self.rows.scores(self.ends)

    @property
    def left_at(self) -> npt.NDArray[np.int64]:
        """Where each row leaves, as a place in `ends`, ``(N,)``."""
        return leave_at(self.scores, self.setting.thresholds)

    @property
    def shares(self) -> dict[int, float]:
        """Share of the images that leave at each of `ends`, by ``exit_index``."""
        return dict(zip(self.ends, self.result.exit_fractions, strict=True))

    def accuracy(self, exit_index: int) -> float:
        """Accuracy on the images that leave at an exit, 0 to 1."""
        return float(self.rows.correct[exit_index, self.left_at == self.ends.index(exit_index)].mean())


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
    simulations: tuple[Simulation, ...]
    """Of the settings of the run."""
    common: Simulation | None
    """The threshold `START` at every exit; None where there is no early exit."""
    temperatures: tuple[float, ...] | None
    """One per exit; None where there are no other images to fit them on."""
    before: tuple[Reliability, ...]
    """Of every exit, without temperature scaling."""
    after: tuple[Reliability, ...] | None
    """The same with it."""
    by_class: npt.NDArray[np.float64]
    """Percent, ``(K, classes)``."""

    @property
    def all_simulations(self) -> list[Simulation]:
        """Those of the settings, and last the common threshold."""
        return [*self.simulations, *([] if self.common is None else [self.common])]

    @property
    def first(self) -> Simulation | None:
        """The one in the summary; None where there is no early exit."""
        return next(iter(self.all_simulations), None)

    @property
    def illustrated(self) -> Simulation | None:
        """The one whose images are shown: the first one, but one at which images leave first and last if any."""
        with_both = (one for one in self.all_simulations if min(one.result.exit_fractions[i] for i in (0, -1)) > 0)
        return next(with_both, self.first)


def measure(subject: Subject) -> Measured:
    """The figures of a run."""
    shown, held_out, cost = subject.shown, subject.held_out, subject.cost
    rows = rows_of(shown.logits, shown.labels, cost)
    early = tuple(range(len(shown.logits) - 1))
    common = Setting(f"{START:g} at every exit", "One common threshold.", early, (START,) * len(early))
    fitted = None
    if held_out is not None and subject.split != "val":
        fitted = temperatures(held_out.logits, held_out.labels)
    return Measured(
        rows=rows,
        accuracies_pct=tuple(accuracy_pct(of_exit) for of_exit in rows.correct),
        ensembles=ensembles(shown.logits, shown.labels, [known.name for known in subject.exits]),
        swept=tuple(common_result(rows, threshold) for threshold in SWEPT) if early else (),
        budgets=_budgets(subject, rows) if early else (),
        simulations=tuple(_simulation(subject, setting) for setting in subject.settings),
        common=_simulation(subject, common) if early else None,
        temperatures=fitted,
        before=_reliabilities(rows),
        after=None if fitted is None else _reliabilities(rows_of(shown.logits, shown.labels, cost, "softmax", fitted)),
        by_class=class_accuracies_pct(rows.correct, shown.labels, len(subject.classes)),
    )


def common_result(rows: Rows, threshold: float) -> ProgressiveResult:
    """Of one threshold at every early exit."""
    early = range(len(rows.correct) - 1)
    return simulate(rows, early, [threshold] * len(early))


def _simulation(subject: Subject, setting: Setting) -> Simulation:
    shown = subject.shown
    rows = rows_of(shown.logits, shown.labels, subject.cost, setting.criterion, setting.temperatures)
    return Simulation(setting, rows)


def _budgets(subject: Subject, rows: Rows) -> tuple[ProgressiveResult, ...]:
    """The shown split with the thresholds that are cheapest on validation, for growing budgets."""
    if subject.held_out is None:
        return ()
    deciding = rows_of(subject.held_out.logits, subject.held_out.labels, subject.cost)
    settings = Family({"softmax": deciding}).frontier(MOST_LOST_PCT)
    results = (simulate(rows, found.exits, found.thresholds) for found in settings)
    return tuple({(result.mean_macs, result.accuracy_pct): result for result in results}.values())


def _reliabilities(rows: Rows) -> tuple[Reliability, ...]:
    return tuple(reliability(sure, right) for sure, right in zip(rows.confidences, rows.correct, strict=True))
