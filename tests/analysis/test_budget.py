"""The price that keeps a budget: on the deciding images, on new ones, and with a confidence."""

import numpy as np
import pytest

from lcprune.analysis.budget import FOLDS, Calibration, Family, images_needed
from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.evaluate import within
from lcprune.analysis.intervals import score_upper
from lcprune.analysis.thresholds import Rows, Setting, rows_of, settings_at, simulate

CHEAP = CascadeCost(group_macs=(10, 20, 30, 40), critic_macs=(1, 2, 3))
BUDGETS = (0.0, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 40.0, 100.0)


def rows(n: int, seed: int = 0, exits: int = 4) -> Rows:
    """Exits that get better with depth and find the same images hard, as those of a network do."""
    rng = np.random.default_rng(seed)
    labels, difficulty = rng.integers(0, 4, n), rng.normal(size=n)
    logits = rng.normal(size=(exits, n, 4))
    skill = 0.6 + 0.5 * np.arange(exits)[:, None]
    logits[:, np.arange(n), labels] += 3.0 * (skill - difficulty + 0.3 * rng.normal(size=(exits, n)))
    return rows_of(
        logits.astype(np.float32), labels, CHEAP if exits == 4 else CascadeCost((10,) * exits, (1,) * (exits - 1))
    )


def setting_of(found: Calibration) -> Setting:
    return Setting(found.criterion, found.exits, found.thresholds)


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_a_larger_budget_never_costs_more_and_no_budget_is_overrun(confidence: float | None) -> None:
    family = Family({"softmax": rows(700)})
    found = [family.within_drop(budget, confidence) for budget in BUDGETS]
    macs = [chosen.mean_macs for chosen in found if chosen]
    assert macs == sorted(macs, reverse=True)
    assert macs[0] > macs[-1]
    first = next(at for at, chosen in enumerate(found) if chosen)
    assert all(found[first:])  # what a budget allows, a larger one allows
    for budget, chosen in zip(BUDGETS, found, strict=True):
        if chosen:
            assert within(chosen.drop_pct, budget)
            assert within(chosen.expected_drop_pct, budget)
            assert confidence is None or within(chosen.drop_upper_pct or 0.0, budget)


def test_what_is_reported_is_what_the_thresholds_do() -> None:
    deciding = rows(900, 1)
    found = Family({"softmax": deciding}).within_drop(2.0)
    assert found is not None
    result = simulate(deciding, found.exits, found.thresholds)
    assert (found.accuracy_pct, found.mean_macs, found.macs_ratio) == (
        result.accuracy_pct,
        result.mean_macs,
        result.macs_ratio,
    )
    assert found.exit_fractions == result.exit_fractions
    assert found.drop_pct == pytest.approx(100 * deciding.correct[-1].mean() - result.accuracy_pct, abs=1e-6)
    assert found.macs_ratio < 1


def test_every_image_is_judged_by_settings_that_it_had_no_part_in() -> None:
    deciding = rows(200, 2)
    folds = np.arange(200) % 4
    family = Family({"softmax": deciding}, folds=folds)
    for fold in range(4):
        others = {"softmax": deciding.take(np.flatnonzero(folds != fold))}
        inside = {"softmax": deciding.take(np.flatnonzero(folds == fold))}
        for at, setting in enumerate(settings_at(family.prices, others, CHEAP.exit_macs)):
            np.testing.assert_array_equal(family.unseen[at, folds == fold], setting.outcome(inside)[1])


def test_the_forecast_is_the_cross_validated_loss_and_one_image_more() -> None:
    family = Family({"softmax": rows(500, 3)})
    found = family.within_drop(4.0)
    assert found is not None
    at = family.settings.index(setting_of(found))
    lost = family.unseen[at].astype(float)
    assert found.expected_drop_pct == pytest.approx(100 * (lost.sum() + 1) / 501)
    assert found.expected_drop_se_pct == pytest.approx(100 * lost.std() / 500**0.5)
    assert found.images_needed == images_needed(4.0, float(lost.var()))
    assert found.drop_upper_pct is None


def test_a_least_price_leaves_out_what_is_cheaper_and_gives_the_best_of_the_rest() -> None:
    family = Family({"softmax": rows(900, 5)})
    free, strict = family.within_drop(5.0), family.within_drop(1.0)
    assert free is not None
    assert strict is not None
    assert free.price < strict.price
    held = family.within_drop(5.0, least_price=strict.price)
    assert held is not None
    assert held.price >= strict.price
    assert free.mean_macs <= held.mean_macs <= strict.mean_macs
    assert family.within_drop(5.0, least_price=free.price) == free
    assert family.within_drop(5.0, least_price=1e9) is None


def test_images_that_halve_the_budget_by_hand() -> None:
    """At 0.5 points b (1 - b) = 0.004975, and 4 * 0.004975 / 0.005^2 = 796."""
    assert images_needed(0.5) == 796
    assert images_needed(0.5, 0.02) == 3200
    assert images_needed(100.0) == 0


def test_the_folds_are_the_same_every_time_and_of_equal_size() -> None:
    folds = Family({"softmax": rows(103)}).folds
    np.testing.assert_array_equal(folds, Family({"softmax": rows(103, 7)}).folds)
    assert sorted(np.bincount(folds).tolist()) == [20, 20, 21, 21, 21]
    assert len(np.unique(folds)) == FOLDS


@pytest.mark.parametrize("n", [1, 3, 12])
def test_with_hardly_an_image_nothing_is_defended(n: int) -> None:
    found = Family({"softmax": rows(n)}).within_drop(0.5)
    assert found is None or found.exits == ()


def test_main_alone_loses_nothing() -> None:
    dear = rows(300)
    dear = Rows(dear.confidences, dear.correct, CascadeCost((10, 20, 30, 40), (500, 500, 500)))
    for confidence in (None, 0.95):
        found = Family({"softmax": dear}).within_drop(0.0, confidence)
        assert found is not None
        assert (found.exits, found.drop_pct, found.expected_drop_pct, found.mean_macs) == ((), 0.0, 0.0, 100.0)
        assert (found.images_needed, found.drop_upper_pct) == (None, None if confidence is None else 0.0)


def test_exits_by_hand_are_kept_in_order() -> None:
    family = Family({"softmax": rows(600)}, exits=[2, 0])
    assert {setting.exits for setting in family.settings} == {(0, 2)}


@pytest.mark.parametrize(
    ("max_drop_pct", "confidence"), [(-1.0, None), (101.0, None), (np.nan, None), (1.0, 1.0), (1.0, 0.4)]
)
def test_arguments_out_of_range_are_refused(max_drop_pct: float, confidence: float | None) -> None:
    with pytest.raises(ValueError, match="max_drop_pct|confidence"):
        Family({"softmax": rows(20)}).within_drop(max_drop_pct, confidence)


def test_a_mean_cost_is_kept_and_more_to_spend_never_loses_more() -> None:
    family = Family({"softmax": rows(900, 4)})
    found = {limit: family.within_cost(limit) for limit in (10.9, 11.0, 15.0, 30.0, 50.0, 1000.0)}
    assert found.pop(10.9) is None  # group and critic of the first exit cost 11
    for limit, chosen in found.items():
        assert chosen is not None
        assert chosen.mean_macs <= limit
        assert chosen.images_needed is None
    expected = [chosen.expected_drop_pct for chosen in found.values() if chosen]
    assert expected == sorted(expected, reverse=True)
    cheapest = found[11.0]
    assert cheapest is not None
    assert (cheapest.exits, cheapest.exit_fractions) == ((0,), (1.0, 0.0))


def test_a_limit_in_another_unit_is_reported_in_macs() -> None:
    deciding = rows(500)
    family = Family({"softmax": deciding}, pay=lambda kept: tuple(macs / 1000 for macs in CHEAP.exit_macs(kept)))
    found = family.within_cost(0.04)
    assert found is not None
    assert 11 <= found.mean_macs <= 40


def test_the_frontier_gets_cheaper_and_stays_within_the_loss() -> None:
    deciding = rows(700, 5)
    settings = Family({"softmax": deciding}).frontier(5.0)
    results = [simulate(deciding, setting.exits, setting.thresholds) for setting in settings]
    macs = [result.mean_macs for result in results]
    assert len(macs) > 5
    assert macs == sorted(set(macs), reverse=True)
    assert min(result.accuracy_pct for result in results) >= 100 * deciding.correct[-1].mean() - 5


def test_what_another_last_exit_loses_is_counted_from_main() -> None:
    whole = rows(800, 6)
    ended = whole.kept(range(2))
    family = Family({"softmax": ended})
    alone = 100 * (whole.correct[-1].mean() - whole.correct[1].mean())
    assert family.within_drop(max(0.0, alone - 1.5)) is None
    found = family.within_drop(alone + 3)
    assert found is not None
    assert found.drop_pct == pytest.approx(100 * whole.correct[-1].mean() - found.accuracy_pct, abs=1e-6)


def test_the_bound_is_that_of_the_unseen_losses_and_the_sequence_ends_at_the_first_failure() -> None:
    family = Family({"softmax": rows(1500, 8)})
    found = family.within_drop(3.0, 0.95)
    assert found is not None
    at = family.settings.index(setting_of(found))

    def upper(price: int) -> float:
        lost = family.unseen[price]
        if not family.settings[price].exits:
            return 0.0
        return 100 * score_upper(int((lost > 0).sum()), int((lost < 0).sum()), 1500, 0.95)

    assert found.drop_upper_pct == upper(at)
    failed = next(price for price in range(len(family.settings)) if not within(upper(price), 3.0))
    assert at < failed
    assert family.costs[at] == min(family.costs[:failed])
    default = family.within_drop(3.0)
    assert default is not None
    assert default.mean_macs < found.mean_macs


def test_budgets_hold_on_new_images_on_average() -> None:
    """Splits of 4,000 images: 500 decide, the others show what is lost; the mean is within a tenth of a point."""
    pool = rows(4000, 9)
    lost: dict[float, list[float]] = {1.0: [], 3.0: []}
    for split in range(30):
        order = np.random.default_rng(split).permutation(4000)
        family, unseen = Family({"softmax": pool.take(order[:500])}), {"softmax": pool.take(order[500:])}
        for budget, of_budget in lost.items():
            found = family.within_drop(budget)
            of_budget.append(100 * float(setting_of(found).outcome(unseen)[1].mean()) if found else 0.0)
    for budget, of_budget in lost.items():
        assert np.mean(of_budget) <= budget + 0.1
    assert np.mean(lost[3.0]) > 1.5


def test_with_a_confidence_a_budget_is_hardly_ever_overrun() -> None:
    """The pool is the population, images are drawn from it with replacement; copies are judged together."""
    pool = rows(3000, 10)
    over = []
    for draw in range(60):
        rng = np.random.default_rng(draw)
        deciding, folds = rng.integers(0, 3000, 600), rng.permutation(3000) % FOLDS
        found = Family({"softmax": pool.take(deciding)}, folds=folds[deciding]).within_drop(3.0, 0.9)
        lost = 100 * float(setting_of(found).outcome({"softmax": pool})[1].mean()) if found else 0.0
        over.append(lost > 3.0)
    assert np.mean(over) <= 0.1 + 2 * (0.09 / 60) ** 0.5
