"""The smallest sub-model within a budget, and why others are refused."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from lcprune.analysis.cost import ExitCost
from lcprune.analysis.evaluate import accuracy_pct, correct_rows, drop_pct, drop_se_pct, within
from lcprune.analysis.intervals import paired_drop_upper_pct
from lcprune.errors import BudgetError, LcpruneError
from lcprune.exits import MAIN, exit_label
from lcprune.specs import Minimize
from lcprune_runtime.criterion import FloatArray, IntArray, predicted_classes

FIELDS = {"macs": "macs", "params": "params", "latency": "latency_ms", "size": "size_bytes"}
"""Of a cost, by what is minimized."""
Predictions = tuple[FloatArray, IntArray]
"""Logits ``(K, N, C)`` of all exits, main last, and labels ``(N,)``."""


@dataclass(frozen=True, kw_only=True)
class Candidate(ExitCost):
    """A sub-model, or main, with its cost and accuracy. The fields are the keys of the JSON."""

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

    @property
    def is_main(self) -> bool:
        """Whether it is the reference: main, at the largest input size."""
        return self.name.startswith(MAIN) and self.macs_ratio == 1


@dataclass(frozen=True)
class Budget:
    """What a candidate may cost and lose; a limit that is met exactly is met."""

    max_drop_pct: float
    minimize: Minimize = "macs"
    exits: tuple[str, ...] | None = None
    """Sub-models to consider besides main: ``1``, or ``1@64``; see `exit_label`. None: all."""
    max_macs: int | None = None
    max_params: int | None = None
    max_latency_ms: float | None = None
    confidence: float | None = None
    """With it, ``drop_upper_pct`` is to be within ``max_drop_pct``."""

    def __post_init__(self) -> None:
        """Refuses limits that nothing can meet or miss.

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


@dataclass(frozen=True)
class _Limit:
    """One figure of a candidate against the budget."""

    option: str
    what: str
    value: float
    most: float

    @property
    def is_met(self) -> bool:
        return within(self.value, self.most)

    @property
    def refusal(self) -> str:
        """Both figures, with two decimals or as many as it takes to tell them apart."""
        value, most = f"{self.value:,}", f"{self.most:,}"
        if not isinstance(self.value, int):
            digits = next((d for d in range(2, 6) if f"{self.value:.{d}f}" != f"{self.most:.{d}f}"), 6)
            value, most = f"{self.value:.{digits}f}", f"{self.most:.{digits}f}"
        return f"{self.what.format(value)} over {most}"

    @property
    def admits(self) -> str:
        """The option, with a value that would have been met: rounded up to two decimals."""
        if isinstance(self.value, int):
            return f"{self.option} {self.value}"
        return f"{self.option} {math.ceil(100 * round(self.value, 6) - 1e-9) / 100:.2f}"  # 100 * 3.1 is over 310


def candidates_from(
    costs: Sequence[ExitCost],
    val: Predictions | None,
    test: Predictions | None = None,
    decides: Literal["val", "test"] = "val",
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
        ValueError: If the arguments do not fit each other, or the split that is to decide is not there.
    """
    given = {name: of for name, of in (("val", val), ("test", test)) if of is not None}
    correct = {name: correct_rows(predicted_classes(logits), labels) for name, (logits, labels) in given.items()}
    if decides not in correct or any(len(of_split) != len(costs) for of_split in correct.values()):
        raise ValueError(f"{len(costs)} costs and {decides} do not go with {[of.shape for of in correct.values()]}")
    deciding = correct[decides]
    main = deciding[-1]
    accuracies = {name: [accuracy_pct(of_exit) for of_exit in of_split] for name, of_split in correct.items()}
    unknown = [None] * len(costs)
    upper: list[float | None] = [None] * len(costs)
    if confidence is not None:
        upper = [*(paired_drop_upper_pct(main, of_exit, confidence) for of_exit in deciding[:-1]), 0.0]
    return tuple(
        Candidate(
            **asdict(cost),
            val_accuracy_pct=accuracies.get("val", unknown)[k],
            test_accuracy_pct=accuracies.get("test", unknown)[k],
            drop_pct=drop_pct(main, deciding[k]),
            expected_drop_pct=drop_pct(main, deciding[k]),
            expected_drop_se_pct=drop_se_pct(main, deciding[k]),
            drop_upper_pct=upper[k],
            macs_ratio=cost.macs / costs[-1].macs,
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
        LcpruneError: If the budget names a sub-model that there is not.
        ValueError: If the candidates were made without a figure that the budget is about.
    """
    early = [exit_label(c.name) for c in candidates[:-1]]
    if absent := sorted(set(budget.exits or ()) - set(early)):
        raise LcpruneError(f"there is no sub-model {', '.join(absent)}", f"name some of: {', '.join(early) or 'none'}")
    considered = [c for c in candidates if _is_considered(c, budget)]
    fitting = [c for c in considered if refusal(c, budget) is None]
    if not fitting:
        raise _nothing_fits(considered, budget)
    return min(fitting, key=lambda c: (_known(c, FIELDS[budget.minimize]), c.macs, c.params, c.exit_index))


def _is_considered(candidate: Candidate, budget: Budget) -> bool:
    return budget.exits is None or candidate.is_main or exit_label(candidate.name) in budget.exits


def _limits(candidate: Candidate, budget: Budget) -> list[_Limit]:
    drop, error, text = candidate.drop_pct, candidate.expected_drop_se_pct, "drop {} points is"
    if error > max(drop, -drop / 2):  # so uncertain a drop, or so small a gain, cannot be defended within less
        drop, text = error, f"drop {drop:.2f} points, give or take {{}}, is"
    if budget.confidence is not None:
        drop = _known(candidate, "drop_upper_pct")
        text = f"drop {{}} points (upper end, {100 * budget.confidence:g}%) is"
    costs = (
        ("--max-macs", "{} MACs are", "macs", budget.max_macs),
        ("--max-params", "{} parameters are", "params", budget.max_params),
        ("--max-latency-ms", "latency {} ms is", "latency_ms", budget.max_latency_ms),
    )
    limited = [(option, what, _known(candidate, name), most) for option, what, name, most in costs if most is not None]
    return [_Limit("--max-drop", text, drop, budget.max_drop_pct), *(_Limit(*limit) for limit in limited)]


def _known(candidate: Candidate, name: str) -> float:
    figure: float | None = getattr(candidate, name)
    if figure is None:
        raise ValueError(f"{candidate.name} was made without {name}, but the budget is about it")
    return figure


def _nothing_fits(considered: Sequence[Candidate], budget: Budget) -> BudgetError:
    """The error that names the candidate nearest to the limits on cost, and among equals the most accurate one."""

    def distance(candidate: Candidate) -> tuple[float, float]:
        drop, *costs = _limits(candidate, budget)
        times = [limit.value / limit.most if limit.most else math.inf for limit in costs]
        return max([1.0, *times]), drop.value

    nearest = min(considered, key=distance)
    missed = [limit for limit in _limits(nearest, budget) if not limit.is_met]
    figures = f"drop {nearest.drop_pct:.2f} points, {nearest.macs:,} MACs, {nearest.params:,} parameters"
    return BudgetError(
        f"nothing is within the budget. The nearest is {nearest.name} ({figures}): {refusal(nearest, budget)}",
        f"{' '.join(limit.admits for limit in missed)} admits {nearest.name}",
    )
