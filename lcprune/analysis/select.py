"""The smallest sub-model within a budget, and why the smaller ones are not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from lcprune.analysis.criterion import predicted_classes
from lcprune.analysis.evaluate import accuracy_pct, correct_rows, drop_pct, drop_se_pct, within
from lcprune.analysis.intervals import paired_drop_upper_pct
from lcprune.errors import BudgetError, DataError, LcpruneError, RunError

Minimize = Literal["macs", "params", "latency", "size"]
Split = Literal["val", "test"]
Predictions = tuple[npt.NDArray[np.floating], npt.NDArray[np.integer]]
"""Logits ``(K, N, C)`` of all exits, main last, and labels ``(N,)``."""


@dataclass(frozen=True)
class SubmodelCost:
    """What one stand-alone sub-model costs. None: not measured."""

    macs: int
    params: int
    size_bytes: int | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A sub-model, or main, with its cost and accuracy. The fields are the keys of the JSON."""

    name: str
    exit_index: int
    macs: int
    params: int
    size_bytes: int | None
    latency_ms: float | None
    val_accuracy_pct: float | None
    test_accuracy_pct: float | None
    drop_pct: float
    """Points below float32's main that the deciding images lose, to 6 digits."""
    expected_drop_pct: float
    """Points that new images are expected to lose: as many, where `expected_drop_se_pct` is within the budget."""
    expected_drop_se_pct: float
    """Standard error of `expected_drop_pct`."""
    drop_upper_pct: float | None
    """Upper end of the one-sided interval of the drop; 0 for main, which is its own reference."""
    macs_ratio: float
    """To main."""


@dataclass(frozen=True)
class Budget:
    """What a candidate may cost and lose; a limit that is met exactly is met."""

    max_drop_pct: float
    minimize: Minimize = "macs"
    exits: tuple[int, ...] | None = None
    """Sub-models to consider besides main, counted from 1. None: all."""
    max_macs: int | None = None
    max_params: int | None = None
    max_latency_ms: float | None = None
    confidence: float | None = None
    """With it, ``drop_upper_pct`` is to be within ``max_drop_pct``."""

    def __post_init__(self) -> None:
        """Refuse what nothing can be held against.

        Raises:
            ValueError: If a value is out of its range.
        """
        limits = [limit for limit in (self.max_macs, self.max_params, self.max_latency_ms) if limit is not None]
        if not all(0 <= limit < math.inf for limit in (self.max_drop_pct, *limits)):
            raise ValueError(f"a limit is negative or not finite: {self}")
        if self.minimize not in get_args(Minimize):
            raise ValueError(f"minimize {self.minimize!r} is none of {get_args(Minimize)}")
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence {self.confidence} is not in [0.5, 1)")
        if any(k < 1 for k in self.exits or ()):
            raise ValueError(f"exits {self.exits}: sub-models are counted from 1")


@dataclass(frozen=True)
class _Limit:
    """One figure of a candidate against the budget."""

    option: str
    what: str
    value: float | None
    most: float

    @property
    def is_met(self) -> bool:
        return self.value is not None and within(self.value, self.most)

    @property
    def refusal(self) -> str:
        if self.value is None:
            return f"{self.option} cannot be checked before `lcprune profile`"
        value, most = _texts(self.value, self.most)
        return f"{self.what.format(value)} over {most}"

    @property
    def admits(self) -> str:
        """The option, with a value that would have been met."""
        value = self.value or 0.0
        return f"{self.option} {value if isinstance(value, int) else f'{_rounded_up(value):.2f}'}"


def candidates_from(
    costs: Sequence[SubmodelCost],
    val: Predictions | None,
    test: Predictions | None = None,
    decides: Split = "val",
    confidence: float | None = None,
) -> tuple[Candidate, ...]:
    """All sub-models and main, shallow first.

    Args:
        costs: Of every sub-model and of main, ``(K,)``.
        val: Of the validation split, where there is one.
        test: Of the test split. It decides nothing unless ``decides`` says so.
        decides: The split that ``drop_pct`` is measured on.
        confidence: Of the one-sided interval that gives ``drop_upper_pct``. Each candidate's holds by itself.

    Raises:
        DataError: If the split that is to decide is not there.
        ValueError: If the arguments do not fit each other.
    """
    correct = {name: _correct(of) for name, of in (("val", val), ("test", test)) if of is not None}
    if decides not in correct:
        raise DataError(
            f"there is no {decides} split to decide on",
            "train with `data.val_size` above 0, or let the test images decide with `--use-test-split`",
        )
    if {len(of_split) for of_split in correct.values()} != {len(costs)}:
        raise ValueError(f"{len(costs)} costs do not go with {[of.shape for of in correct.values()]} predictions")
    deciding, main, n_early = correct[decides], costs[-1], len(costs) - 1
    return tuple(
        Candidate(
            name=f"sub-model {k + 1}" if k < n_early else "main",
            exit_index=k,
            macs=cost.macs,
            params=cost.params,
            size_bytes=cost.size_bytes,
            latency_ms=cost.latency_ms,
            val_accuracy_pct=_accuracy_pct(correct, "val", k),
            test_accuracy_pct=_accuracy_pct(correct, "test", k),
            drop_pct=drop_pct(deciding[-1], deciding[k]),
            expected_drop_pct=drop_pct(deciding[-1], deciding[k]),
            expected_drop_se_pct=drop_se_pct(deciding[-1], deciding[k]),
            drop_upper_pct=None if confidence is None else _drop_upper_pct(deciding, k, confidence),
            macs_ratio=cost.macs / main.macs,
        )
        for k, cost in enumerate(costs)
    )


def refusal(candidate: Candidate, budget: Budget) -> str | None:
    """Why a candidate is not within the budget, with its figures; None if it is.

    Raises:
        ValueError: If the budget asks for a confidence that the candidate was made without.
    """
    if not _is_considered(candidate, budget):
        return "not among the exits to consider"
    missed = [limit.refusal for limit in _limits(candidate, budget) if not limit.is_met]
    return ", ".join(missed) or None


def choose(candidates: Sequence[Candidate], budget: Budget) -> Candidate:
    """The candidate within the budget that has the least of what it minimizes, then MACs, parameters, depth.

    Raises:
        BudgetError: If none is within the budget. It names the nearest, and a budget that admits it.
        RunError: If the budget speaks of latency or size, and these were not measured.
        LcpruneError: If the budget names a sub-model that there is not.
        ValueError: If the budget asks for a confidence that the candidates were made without.
    """
    if absent := set(budget.exits or ()) - {c.exit_index + 1 for c in candidates if c.name != "main"}:
        raise LcpruneError(
            f"there is no sub-model {', '.join(map(str, sorted(absent)))}",
            f"name some of: {', '.join(str(c.exit_index + 1) for c in candidates if c.name != 'main') or 'none'}",
        )
    considered = [c for c in candidates if _is_considered(c, budget)]
    minimized = {c: _minimized(c, budget.minimize) for c in considered}
    if budget.max_latency_ms is not None and any(c.latency_ms is None for c in considered):
        raise _unmeasured("latency")
    fitting = [c for c in considered if refusal(c, budget) is None]
    if not fitting:
        raise _nothing_fits(considered, budget)
    return min(fitting, key=lambda c: (minimized[c], c.macs, c.params, c.exit_index))


def _correct(predictions: Predictions) -> npt.NDArray[np.bool_]:
    logits, labels = predictions
    return correct_rows(predicted_classes(logits), labels)


def _accuracy_pct(correct: dict[str, npt.NDArray[np.bool_]], split: str, exit_index: int) -> float | None:
    if split not in correct:
        return None
    return accuracy_pct(correct[split][exit_index])


def _drop_upper_pct(correct: npt.NDArray[np.bool_], exit_index: int, confidence: float) -> float:
    if exit_index == len(correct) - 1:
        return 0.0
    return paired_drop_upper_pct(correct[-1], correct[exit_index], confidence)


def _is_considered(candidate: Candidate, budget: Budget) -> bool:
    return budget.exits is None or candidate.name == "main" or candidate.exit_index + 1 in budget.exits


def _limits(candidate: Candidate, budget: Budget) -> list[_Limit]:
    drop, error, text = candidate.drop_pct, candidate.expected_drop_se_pct, "drop {} points is"
    if error > max(drop, -drop / 2):  # so uncertain a drop, or so small a gain, cannot be defended within less
        drop, text = error, f"drop {drop:.2f} points, give or take {{}}, is"
    if budget.confidence is not None:
        if candidate.drop_upper_pct is None:
            raise ValueError(f"{candidate.name} was made without a confidence, but the budget asks for one")
        drop, text = candidate.drop_upper_pct, f"drop {{}} points (upper end, {100 * budget.confidence:g}%) is"
    limits: list[tuple[str, str, float | None, float | None]] = [
        ("--max-drop", text, drop, budget.max_drop_pct),
        ("--max-macs", "{} MACs are", candidate.macs, budget.max_macs),
        ("--max-params", "{} parameters are", candidate.params, budget.max_params),
        ("--max-latency-ms", "latency {} ms is", candidate.latency_ms, budget.max_latency_ms),
    ]
    return [_Limit(option, what, value, most) for option, what, value, most in limits if most is not None]


def _minimized(candidate: Candidate, minimize: Minimize) -> float:
    figures = {
        "macs": candidate.macs,
        "params": candidate.params,
        "latency": candidate.latency_ms,
        "size": candidate.size_bytes,
    }
    figure = figures[minimize]
    if figure is None:
        raise _unmeasured(minimize)
    return figure


def _unmeasured(what: str) -> RunError:
    return RunError(f"the {what} of the sub-models was not measured", "run `lcprune profile`, then select again")


def _nothing_fits(considered: Sequence[Candidate], budget: Budget) -> BudgetError:
    """The error that names the candidate nearest to the limits on cost, and among equals the most accurate one."""

    def distance(candidate: Candidate) -> tuple[float, float]:
        drop, *costs = _limits(candidate, budget)
        return max([1.0, *(_times(limit) for limit in costs)]), drop.value or 0.0

    nearest = min(considered, key=distance)
    missed = [limit for limit in _limits(nearest, budget) if not limit.is_met]
    figures = f"drop {nearest.drop_pct:.2f} points, {nearest.macs:,} MACs, {nearest.params:,} parameters"
    return BudgetError(
        f"nothing is within the budget. The nearest is {nearest.name} ({figures}): {refusal(nearest, budget)}",
        f"{' '.join(limit.admits for limit in missed)} admits {nearest.name}",
    )


def _times(limit: _Limit) -> float:
    """By what factor a limit is exceeded."""
    return (limit.value or 0.0) / limit.most if limit.most else math.inf


def _texts(value: float, most: float) -> tuple[str, str]:
    """Two different figures as texts that differ, with two decimals or as many as that takes."""
    if isinstance(value, int):
        return f"{value:,}", f"{most:,}"
    digits = next((d for d in range(2, 6) if f"{value:.{d}f}" != f"{most:.{d}f}"), 6)
    return f"{value:.{digits}f}", f"{most:.{digits}f}"


def _rounded_up(value: float) -> float:
    """To two decimals; what has no more than two stays (floats: 100 * 3.1 is over 310)."""
    return math.ceil(100 * round(value, 6) - 1e-9) / 100
