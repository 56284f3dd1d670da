"""Select and thresholds against their definitions: never above the budget, monotone in it, the best at a price."""

from dataclasses import dataclass

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from lcprune.analysis.budget import Family
from lcprune.analysis.cost import CascadeCost, ExitCost
from lcprune.analysis.select import Budget, Candidate, candidates_from, choose
from lcprune.analysis.thresholds import Rows, settings_at, simulate
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
        ExitCost(name, k, *(draw(st.integers(1, 9)) for _ in range(3)), latency_ms=draw(st.integers(1, 9)) / 4)
        for k, name in enumerate([*(f"sub-model {k}" for k in range(1, exits)), "main"])
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
    drop, most_drop = candidate.drop_pct, budget.max_drop_pct + 5e-7
    pairs = (
        (drop, most_drop),
        (candidate.expected_drop_se_pct, max(most_drop, drop, -drop / 2)),  # so uncertain a drop cannot be defended
        (candidate.macs, budget.max_macs),
        (candidate.params, budget.max_params),
        (candidate.latency_ms, budget.max_latency_ms),
    )
    return all(most is None or value is None or value <= most for value, most in pairs)


@given(found(), budgets())
def test_the_choice_is_within_the_budget_and_the_least_of_all_that_are(
    candidates: tuple[Candidate, ...], budget: Budget
) -> None:
    figures = [value for c in candidates for value in (c.drop_pct, c.expected_drop_se_pct)]
    assume(not any(0 < abs(value - budget.max_drop_pct) < 1e-6 for value in figures))
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


def prices(truth: Truth) -> list[np.ndarray]:
    """Below what a gain pays back at most, so that rows lost and gained weigh the same."""
    return [truth.cost.main_macs * np.array([10.0, 1.0, 0.2]), np.zeros(1)]


@given(truths(most_exits=4, most_rows=30))
def test_a_setting_does_what_it_says(truth: Truth) -> None:
    for setting in settings_at(prices(truth), {"softmax": truth.rows}, truth.cost.exit_macs):
        lost, mean_macs = truth.outcome(setting.exits, setting.thresholds)
        left_at, losses = setting.outcome({"softmax": truth.rows})
        assert lost == int(losses.sum())
        paid = np.take(truth.cost.exit_macs(setting.exits), left_at).mean()
        assert abs(paid - mean_macs) <= 1e-9 * mean_macs
        assert abs(simulate(truth.rows, setting.exits, setting.thresholds).mean_macs - mean_macs) <= 1e-9 * mean_macs


@given(truths(most_exits=4, most_rows=40), DROPS, DROPS, st.sampled_from([None, 0.5, 0.9, 0.99]))
def test_a_larger_drop_never_costs_more(truth: Truth, one: float, other: float, confidence: float | None) -> None:
    low, high = sorted([one, other])
    family = Family({"softmax": truth.rows})
    tight, loose = family.within_drop(low, confidence), family.within_drop(high, confidence)
    for result, most in ((tight, low), (loose, high)):
        if result is not None:
            lost, mean_macs = truth.outcome(result.exits, result.thresholds)
            assert lost <= allowed_rows(truth, most)
            assert abs(result.mean_macs - mean_macs) <= 1e-9 * mean_macs
            assert result.expected_drop_pct <= most + 1e-6
            assert confidence is None or (result.drop_upper_pct or 0.0) <= most + 1e-6
    if tight is not None:
        assert loose is not None
        assert loose.mean_macs <= tight.mean_macs * (1 + 1e-12)


@given(truths(most_rows=30), st.floats(1, 200))
def test_a_mean_cost_is_kept_wherever_it_can_be(truth: Truth, most: float) -> None:
    family = Family({"softmax": truth.rows})
    result = family.within_cost(most)
    cheapest = min(truth.outcome(setting.exits, setting.thresholds)[1] for setting in family.settings)
    assert (result is None) == (cheapest > most * (1 + 1e-12))
    if result is not None:
        assert truth.outcome(result.exits, result.thresholds)[1] <= most * (1 + 1e-9)
