"""Select and thresholds against their definitions: never above the budget, monotone in it, equal to trying all."""

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from lcprune.analysis.evaluate import CascadeCost
from lcprune.analysis.select import Budget, Candidate, SubmodelCost, candidates_from, choose
from lcprune.analysis.thresholds import Rows, calibrate_rows, most_accurate, simulate
from lcprune.errors import BudgetError

DROPS = st.sampled_from([0.0, 0.5, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]) | st.floats(0, 100)


@st.composite
def found(draw: st.DrawFn) -> tuple[Candidate, ...]:
    """Two to five candidates on 1 to 40 rows; costs, and accuracies, may be equal."""
    exits, rows = draw(st.integers(2, 5)), draw(st.integers(1, 40))
    right = np.array(
        draw(st.lists(st.lists(st.booleans(), min_size=rows, max_size=rows), min_size=exits, max_size=exits))
    )
    costs = [
        SubmodelCost(*(draw(st.integers(1, 9)) for _ in range(3)), latency_ms=draw(st.integers(1, 9)) / 4)
        for _ in range(exits)
    ]
    logits = np.stack([right, ~right], axis=-1).astype(np.float32)
    return candidates_from(costs, (logits, np.zeros(rows, np.int64)))


LIMITS = st.none() | st.integers(1, 9)


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    latency = draw(LIMITS)
    return Budget(
        draw(DROPS),
        draw(st.sampled_from(["macs", "params", "latency", "size"])),
        max_macs=draw(LIMITS),
        max_params=draw(LIMITS),
        max_latency_ms=None if latency is None else latency / 4,
    )


def figure(candidate: Candidate, budget: Budget) -> float:
    names = {"macs": "macs", "params": "params", "latency": "latency_ms", "size": "size_bytes"}
    return float(getattr(candidate, names[budget.minimize]))


def chosen(candidates: tuple[Candidate, ...], budget: Budget) -> Candidate | None:
    try:
        return choose(candidates, budget)
    except BudgetError:
        return None


def is_within(candidate: Candidate, budget: Budget) -> bool:
    pairs = (
        (candidate.drop_pct, budget.max_drop_pct + 5e-7),
        (candidate.macs, budget.max_macs),
        (candidate.params, budget.max_params),
        (candidate.latency_ms, budget.max_latency_ms),
    )
    return all(most is None or value is None or value <= most for value, most in pairs)


@given(found(), budgets())
def test_the_choice_is_within_the_budget_and_the_least_of_all_that_are(
    candidates: tuple[Candidate, ...], budget: Budget
) -> None:
    assume(not any(0 < abs(c.drop_pct - budget.max_drop_pct) < 1e-6 for c in candidates))
    choice = chosen(candidates, budget)
    fitting = [candidate for candidate in candidates if is_within(candidate, budget)]
    if choice is None:
        assert fitting == []
    else:
        assert choice in fitting
        assert figure(choice, budget) == min(figure(candidate, budget) for candidate in fitting)


@given(found(), budgets(), DROPS)
def test_a_larger_budget_never_costs_more(candidates: tuple[Candidate, ...], budget: Budget, other: float) -> None:
    low, high = sorted([budget.max_drop_pct, other])
    tight, loose = (
        chosen(
            candidates,
            Budget(
                drop,
                budget.minimize,
                max_macs=budget.max_macs,
                max_params=budget.max_params,
                max_latency_ms=budget.max_latency_ms,
            ),
        )
        for drop in (low, high)
    )
    if tight is not None:
        assert loose is not None
        assert figure(loose, budget) <= figure(tight, budget)


@dataclass(frozen=True)
class Truth:
    """Rows, and what they are made of."""

    confidences: np.ndarray
    correct: np.ndarray
    cost: CascadeCost

    @property
    def rows(self) -> Rows:
        return Rows(self.confidences, self.correct, self.cost, None)

    def left_at(self, exits: tuple[int, ...], thresholds: tuple[float, ...]) -> np.ndarray:
        """By the definition: the first kept exit whose confidence is at least its threshold."""
        left = np.full(self.correct.shape[1], len(exits))
        for place in reversed(range(len(exits))):
            left[self.confidences[exits[place]] >= np.float32(thresholds[place])] = place
        return left

    def outcome(self, exits: tuple[int, ...], thresholds: tuple[float, ...]) -> tuple[int, float]:
        """Rows lost against main, and mean MACs."""
        left, kept = self.left_at(exits, thresholds), [*exits, len(self.correct) - 1]
        right = self.correct[kept][left, np.arange(len(left))]
        groups, critics, macs, spent = self.cost.group_macs, self.cost.critic_macs, [], 0
        for k in range(len(groups)):
            spent += groups[k] + (critics[k] if k in exits else 0)
            if k in kept:
                macs.append(spent)
        return int(self.correct[-1].sum()) - int(right.sum()), float(np.array(macs)[left].mean())


@st.composite
def truths(draw: st.DrawFn, most_exits: int = 3, most_rows: int = 12) -> Truth:
    """Confidences of few levels, so that rows share them."""
    exits, rows = draw(st.integers(2, most_exits)), draw(st.integers(1, most_rows))
    levels = st.sampled_from([0.25, 0.5, 0.7, 0.9, 0.99, 1.0]) | st.floats(0.125, 1, width=32)
    confidences = [draw(st.lists(levels, min_size=rows, max_size=rows)) for _ in range(exits)]
    correct = [draw(st.lists(st.booleans(), min_size=rows, max_size=rows)) for _ in range(exits)]
    groups = tuple(draw(st.integers(1, 50)) for _ in range(exits))
    critics = tuple(draw(st.integers(0, 30)) for _ in range(exits - 1))
    return Truth(np.array(confidences, np.float32), np.array(correct), CascadeCost(groups, critics))


def allowed_rows(truth: Truth, max_drop_pct: float) -> int:
    n = truth.correct.shape[1]
    return max(lost for lost in range(n + 1) if round(100 * lost / n, 6) <= max_drop_pct)


@given(truths(), DROPS)
def test_thresholds_keep_the_budget_and_cost_what_brute_force_finds(truth: Truth, max_drop_pct: float) -> None:
    result, allowed = calibrate_rows(truth.rows, max_drop_pct), allowed_rows(truth, max_drop_pct)
    lost, mean_macs = truth.outcome(result.exits, result.thresholds)
    assert lost <= allowed
    assert abs(mean_macs - result.mean_macs) <= 1e-9 * mean_macs
    early = range(len(truth.correct) - 1)
    subsets = [subset for size in range(len(early) + 1) for subset in combinations(early, size)]
    tried = (
        truth.outcome(subset, choice)
        for subset in subsets
        for choice in product(*([0.0, *np.unique(truth.confidences[k]).tolist(), 2.0] for k in subset))
    )
    least = min(macs for lost, macs in tried if lost <= allowed)
    assert abs(result.mean_macs - least) <= 1e-9 * least


@given(truths(most_exits=5, most_rows=40), DROPS, DROPS)
def test_a_larger_drop_never_costs_more(truth: Truth, one: float, other: float) -> None:
    low, high = sorted([one, other])
    tight, loose = calibrate_rows(truth.rows, low), calibrate_rows(truth.rows, high)
    for result, most in ((tight, low), (loose, high)):
        lost, mean_macs = truth.outcome(result.exits, result.thresholds)
        assert lost <= allowed_rows(truth, most)
        assert abs(simulate(truth.rows, result.exits, result.thresholds).mean_macs - mean_macs) <= 1e-9 * mean_macs
    assert loose.mean_macs <= tight.mean_macs * (1 + 1e-12)


@given(truths(most_exits=4, most_rows=30), DROPS, st.sampled_from([0.5, 0.9, 0.99]), st.integers(0, 3))
def test_with_a_confidence_the_bound_keeps_the_budget(truth: Truth, drop: float, confidence: float, seed: int) -> None:
    result = calibrate_rows(truth.rows, drop, confidence=confidence, seed=seed)
    assert result.drop_upper_pct is not None
    assert result.drop_upper_pct <= drop + 1e-6 or result.exits == ()


@given(truths(), st.floats(1, 200))
def test_most_accurate_keeps_the_mean_and_loses_what_brute_force_loses(truth: Truth, most: float) -> None:
    result = most_accurate(truth.rows, truth.cost, most)
    early = range(len(truth.correct) - 1)
    tried = [
        truth.outcome(subset, choice)
        for size in range(len(early) + 1)
        for subset in combinations(early, size)
        for choice in product(*([0.0, *np.unique(truth.confidences[k]).tolist(), 2.0] for k in subset))
    ]
    fitting = [lost for lost, macs in tried if macs <= most]
    assert (result is None) == (fitting == [])
    if result is not None:
        lost, mean_macs = truth.outcome(result.exits, result.thresholds)
        assert mean_macs <= most * (1 + 1e-12)
        assert lost == min(fitting)
