"""The pass that turns a price into thresholds, against its definition, row by row."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.evaluate import cascade
from lcprune.analysis.thresholds import GAIN, MIN_GAP, NEVER, Rows, Setting, rows_of, settings_at, simulate
from lcprune.specs import CRITERIA, Criterion
from lcprune_runtime.criterion import exit_scores, scores

CHEAP = CascadeCost(group_macs=(10, 20, 30, 40), critic_macs=(1, 2, 3))
PRICES = [np.geomspace(3000, 3, 8), np.zeros(1)]
TEMPERATURES = (1.7, 0.6, 1.2, 1.0)
Predictions = tuple[np.ndarray, np.ndarray]


def predictions(n_exits: int, n: int, seed: int = 0, sharpness: float = 3.0) -> Predictions:
    """Exits that get better with depth and find the same rows hard, as those of a network do; 4 classes."""
    rng = np.random.default_rng(seed)
    labels, difficulty = rng.integers(0, 4, n), rng.normal(size=n)
    logits = rng.normal(size=(n_exits, n, 4))
    skill = 0.6 + 0.5 * np.arange(n_exits)[:, None]
    logits[:, np.arange(n), labels] += sharpness * (skill - difficulty + 0.5 * rng.normal(size=(n_exits, n)))
    return logits.astype(np.float32), labels


def made_of(*exits: Sequence[tuple[float, bool]]) -> Predictions:
    """Predictions of given (confidence, is right) per exit and row."""
    p = np.array([[confidence for confidence, _ in of_exit] for of_exit in exits])
    right = np.array([[is_right for _, is_right in of_exit] for of_exit in exits])
    first, second = np.where(right, p, 1 - p), np.where(right, 1 - p, p)
    return np.log(np.stack([first, second], axis=-1)).astype(np.float32), np.zeros(p.shape[1], dtype=np.int64)


def score_of(rows: Rows, exits: tuple[int, ...], at: int, row: int) -> float:
    """What a row that comes to an exit is held by, the exits before it being those of ``exits``."""
    if rows.classes is not None and at and rows.classes[exits[at], row] != rows.classes[exits[at - 1], row]:
        return 0.0 * float(rows.confidences[exits[at], row])
    return float(rows.confidences[exits[at], row])


def small_rows(criterion: Criterion, seed: int) -> Rows:
    """Eight rows of four exits, where agreement is not a matter of course; one has no confidence at an exit."""
    logits, labels = predictions(4, 8, 10 + seed, sharpness=1.2)
    logits[0, 3, 1], logits[1, 5, 0] = np.nan, np.inf
    return rows_of(logits, labels, CHEAP, criterion, TEMPERATURES)


def found_at(rows: Rows, exits: tuple[int, ...] | None = None, prices: Sequence[np.ndarray] = PRICES) -> list[Setting]:
    return settings_at(prices, {"softmax": rows}, rows.cost.exit_macs, exits)


def row_costs(rows: Rows, exits: tuple[int, ...], thresholds: Sequence[float], price: float) -> np.ndarray:
    """What each row costs, losses included, walked by itself."""
    macs, costs = rows.cost.exit_macs(exits), []
    for row in range(rows.n):
        limits = [np.float32(limit) for limit in thresholds]
        at = next((at for at, limit in enumerate(limits) if score_of(rows, exits, at, row) >= limit), len(exits))
        lost = int(rows.main_correct[row]) - int(rows.correct[(*exits, -1)[at], row])
        costs.append(macs[at] + (price if lost > 0 else min(price, GAIN * rows.cost.main_macs)) * lost)
    return np.array(costs)


def levels(rows: Rows, exits: tuple[int, ...], place: int) -> list[float]:
    """A threshold for every set of rows that may leave at an exit."""
    known = sorted({score_of(rows, exits, place, row) for row in range(rows.n)} - {0.0})
    return [0.0, *(score for score in known if not np.isnan(score)), 2.0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("criterion", CRITERIA)
def test_of_one_early_exit_the_threshold_is_that_of_brute_force(criterion: Criterion, seed: int) -> None:
    logits, labels = predictions(2, 30, seed, sharpness=1.5)
    rows = rows_of(logits, labels, CascadeCost((10, 30), (2,)), criterion)
    prices = np.concatenate(PRICES)
    for price, setting in zip(prices, found_at(rows, (0,)), strict=True):
        best = min(row_costs(rows, (0,), [level], price).sum() for level in levels(rows, (0,), 0))
        assert row_costs(rows, (0,), setting.thresholds, price).sum() == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("criterion", CRITERIA)
def test_no_other_threshold_is_better_where_the_later_ones_are_settled(criterion: Criterion, seed: int) -> None:
    """At exit k all rows count, and go on as the thresholds behind it say: at what that makes them cost."""
    rows, exits = small_rows(criterion, seed), (0, 1, 2)
    for price, setting in zip(np.concatenate(PRICES), found_at(rows, exits), strict=True):
        for place in range(3):
            before, behind = [2.0] * place, setting.thresholds[place + 1 :]  # nobody leaves before exit k
            chosen, *others = (
                row_costs(rows, exits, [*before, threshold, *behind], price).sum()
                for threshold in (setting.thresholds[place], *levels(rows, exits, place))
            )
            assert chosen == pytest.approx(min(others), abs=1e-6)


def test_thresholds_by_hand() -> None:
    """Leaving saves 90 MACs: at a price of 100 a lost row is not worth it, at 80 it is."""
    found = made_of(
        [(0.95, True), (0.90, True), (0.80, False), (0.60, True), (0.55, False)],
        [(0.99, True), (0.99, True), (0.99, True), (0.99, True), (0.99, False)],
    )
    rows = rows_of(*found, CascadeCost((10, 90), (5,)))
    dear, cheap, free = found_at(rows, None, [np.array([300.0]), np.array([80.0]), np.zeros(1)])
    assert (dear.exits, dear.thresholds) == ((0,), (pytest.approx(0.85, abs=1e-6),))
    assert (cheap.exits, cheap.thresholds) == ((0,), (0.0,))
    assert free == cheap


def test_a_gain_pays_for_its_row() -> None:
    """Exit 1 alone is right on the second row; main is not, so going on to exit 1 is worth a price."""
    found = made_of(
        [(0.95, True), (0.70, False), (0.60, False)],
        [(0.99, True), (0.95, True), (0.90, False)],
        [(0.99, True), (0.99, False), (0.99, True)],
    )
    rows = rows_of(*found, CascadeCost((10, 10, 80), (1, 1)))
    (setting,) = found_at(rows, None, [np.array([50.0])])
    left_at, lost = setting.outcome({"softmax": rows})
    assert (left_at.tolist(), lost.tolist()) == ([0, 1, 1], [0, -1, 1])


def test_thresholds_lie_strictly_between_scores_that_are_apart() -> None:
    rows = rows_of(*predictions(4, 500, sharpness=9.0), CHEAP)
    for setting in found_at(rows):
        for exit_index, threshold in zip(setting.exits, setting.thresholds, strict=True):
            assert threshold == NEVER or float(np.float32(threshold)) == threshold  # compared in float32
            near = np.abs(rows.confidences[exit_index].astype(np.float64) - threshold).min()
            assert threshold in (0, NEVER) or near > 0.45 * MIN_GAP


def test_scores_too_close_to_tell_apart_leave_together() -> None:
    found = made_of([(0.9, True), (0.9 - 1e-6, False)], [(0.99, True), (0.99, True)])
    (setting,) = found_at(rows_of(*found, CascadeCost((10, 90), (5,))), (0,), [np.array([500.0])])
    assert setting.thresholds == (NEVER,)


def test_a_row_without_a_score_goes_on() -> None:
    logits, labels = predictions(3, 100)
    logits[0, :30] = np.nan
    rows = rows_of(logits, labels, CascadeCost((10, 20, 30), (1, 1)))
    (setting,) = found_at(rows, (0,), [np.zeros(1)])
    assert setting.thresholds == (0.0,)
    assert np.bincount(setting.outcome({"softmax": rows})[0]).tolist() == [70, 30]


def test_without_any_row_nobody_leaves() -> None:
    rows = small_rows("softmax", 0).take(np.zeros(0, dtype=np.int64))
    assert found_at(rows, (0, 2), [np.array([5.0])]) == [Setting("softmax", (0, 2), (NEVER, NEVER))]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_exits_are_kept_that_none_of_the_others_would_be_cheaper_without(criterion: Criterion) -> None:
    rows = rows_of(*predictions(4, 300, 2), CascadeCost((10, 20, 30, 40), (4, 9, 2)), criterion)

    def cost(exits: tuple[int, ...] | None, price: float) -> float:
        (setting,) = found_at(rows, exits, [np.array([price])])
        return float(row_costs(rows, setting.exits, setting.thresholds, price).sum())

    for price in (1000.0, 200.0, 50.0, 10.0):
        subsets = [subset for size in range(4) for subset in combinations(range(3), size)]
        assert cost(None, price) <= 1.02 * min(cost(subset, price) for subset in subsets)


def test_exits_that_do_not_pay_are_dropped() -> None:
    found = predictions(4, 400)
    dear = rows_of(*found, CascadeCost((10, 20, 30, 40), (500, 500, 500)))
    assert {setting.exits for setting in found_at(dear)} == {()}
    one_is_cheap = rows_of(*found, CascadeCost((10, 20, 30, 40), (500, 1, 500)))
    assert {setting.exits for setting in found_at(one_is_cheap)} == {(1,)}


def test_exits_by_hand_are_kept_even_where_they_do_not_pay() -> None:
    rows = rows_of(*predictions(4, 400), CascadeCost((10, 20, 30, 40), (500, 500, 500)))
    assert {setting.exits for setting in found_at(rows, (0, 2))} == {(0, 2)}
    with pytest.raises(ValueError, match="ascending"):
        found_at(rows, (2, 0))


def test_the_criterion_is_the_one_that_costs_least() -> None:
    """One whose scores are noise is never taken."""
    rows = rows_of(*predictions(4, 400), CHEAP)
    noise = np.random.default_rng(0).random(rows.confidences.shape, dtype=np.float32)
    settings = settings_at(PRICES, {"margin": Rows(noise, rows.correct, CHEAP), "softmax": rows}, CHEAP.exit_macs)
    assert {setting.criterion for setting in settings[:8]} == {"softmax"}


def test_the_cost_may_be_in_any_unit() -> None:
    """Where the first critic takes long, its exit is left out, whatever its MACs."""
    rows = rows_of(*predictions(4, 400), CHEAP)

    def slow(kept: Sequence[int] | None) -> tuple[float, ...]:
        kept = range(3) if kept is None else kept
        return tuple(0.1 * macs + (50.0 if 0 in kept else 0.0) for macs in CHEAP.exit_macs(kept))

    assert all(0 not in setting.exits for setting in settings_at(PRICES, {"softmax": rows}, slow))
    assert any(0 in setting.exits for setting in found_at(rows))


def test_rows_of_the_wrong_number_of_exits_are_refused() -> None:
    with pytest.raises(ValueError, match="3 exits do not go with 4 groups"):
        Rows(np.zeros((3, 5), dtype=np.float32), np.zeros((3, 5), dtype=np.bool_), CHEAP)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_rows_of_logits_give_what_logits_give(criterion: Criterion) -> None:
    logits, labels = predictions(4, 300, seed=6)
    rows = rows_of(logits, labels, CHEAP, criterion, TEMPERATURES)
    setting = settings_at([np.array([300.0])], {criterion: rows}, CHEAP.exit_macs)[0]
    assert setting.exits
    kept, macs = [*setting.exits, 3], CHEAP.exit_macs(setting.exits)
    fitted = [TEMPERATURES[k] for k in kept]
    confidences, classes = exit_scores(logits[kept], criterion, fitted)
    again = cascade(confidences, classes == labels, setting.thresholds, macs, CHEAP.main_macs)
    assert again == simulate(rows, setting.exits, setting.thresholds)
    left_at, lost = setting.outcome({criterion: rows})
    assert again.exit_fractions == tuple(np.bincount(left_at, minlength=len(kept)) / 300)
    assert again.accuracy_pct == pytest.approx(100 * (rows.correct[-1].sum() - lost.sum()) / 300)
    np.testing.assert_array_equal(rows.confidences, scores(logits, criterion, TEMPERATURES)[0])
    assert (rows.classes is None) == (criterion != "agreement")


def test_the_first_exits_alone_keep_their_classes_and_are_held_against_main() -> None:
    confidences = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    classes = np.arange(12).reshape(3, 4)
    correct = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=np.bool_)
    cost = CascadeCost((1, 2, 3), (4, 5))
    rows = Rows(confidences, correct, cost, classes).kept(range(2))
    assert rows.classes is not None
    assert rows.classes.tolist() == classes[:2].tolist()
    assert rows.main_correct.tolist() == [True, True, True, False]
    assert (rows.confidences.tolist(), rows.correct.tolist()) == (confidences[:2].tolist(), correct[:2].tolist())
    assert rows.losses().tolist() == [[0, 1, 1, 0], [0, 0, 1, 0]]
    assert Rows(confidences, correct, cost).kept(range(2)).classes is None


def test_agreement_depends_on_the_exits_that_are_kept() -> None:
    """Exit 2 is right where it says what exit 0 says, and wrong where it says what exit 1 says."""
    confidences = np.array([[0.5, 0.5], [0.6, 0.6], [0.9, 0.9], [0.99, 0.99]], dtype=np.float32)
    classes = np.array([[0, 1], [1, 2], [0, 2], [0, 1]])
    rows = Rows(confidences, np.array([[True, True], [False, False], [True, False], [True, True]]), CHEAP, classes)
    np.testing.assert_array_equal(rows.scores((0, 2)), np.array([[0.5, 0.5], [0.9, 0.0]], dtype=np.float32))
    np.testing.assert_array_equal(rows.scores((1, 2)), np.array([[0.6, 0.6], [0.0, 0.9]], dtype=np.float32))
    np.testing.assert_array_equal(rows.scores((2,)), confidences[2:3])
    after_first = simulate(rows, (0, 2), (0.8, 0.8))
    assert (after_first.exit_fractions, after_first.accuracy_pct) == ((0.0, 0.5, 0.5), 100.0)
    after_second = simulate(rows, (1, 2), (0.8, 0.8))
    assert (after_second.exit_fractions, after_second.accuracy_pct) == ((0.0, 0.5, 0.5), 50.0)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_simulate_is_a_walk_of_every_row(criterion: Criterion) -> None:
    rows = small_rows(criterion, 5)
    rng = np.random.default_rng(0)
    for exits in ((), (1,), (0, 2), (0, 1, 2)):
        thresholds = rng.uniform(0.1, 0.9, len(exits)).tolist()
        left = [
            next((at for at in range(len(exits)) if score_of(rows, exits, at, row) >= thresholds[at]), len(exits))
            for row in range(rows.n)
        ]
        result, macs = simulate(rows, exits, thresholds), CHEAP.exit_macs(exits)
        assert result.exit_fractions == tuple(left.count(at) / 8 for at in range(len(exits) + 1))
        assert result.mean_macs == pytest.approx(sum(macs[at] for at in left) / 8)
        right = [bool(rows.correct[(*exits, -1)[at], row]) for row, at in enumerate(left)]
        assert result.accuracy_pct == 100 * sum(right) / 8
    with pytest.raises(ValueError, match="ascending"):
        simulate(rows, (1, 0), (0.5, 0.5))
    with pytest.raises(ValueError, match="thresholds"):
        simulate(rows, (0, 1), (0.5,))


def test_some_of_the_rows_keep_their_classes() -> None:
    rows = small_rows("agreement", 0)
    some = rows.take(np.array([6, 1, 3]))
    assert some.n == 3
    np.testing.assert_array_equal(some.scores((0, 2)), rows.scores((0, 2))[:, [6, 1, 3]])
    np.testing.assert_array_equal(some.correct, rows.correct[:, [6, 1, 3]])
