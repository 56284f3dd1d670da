from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import pytest

from lcprune.analysis import search
from lcprune.analysis import thresholds as module
from lcprune.analysis.criterion import CRITERIA, Criterion, scores, softmax_confidence
from lcprune.analysis.evaluate import CascadeCost, correct_rows, leave_at, progressive
from lcprune.analysis.intervals import paired_drop_upper_pct
from lcprune.analysis.thresholds import (
    NEVER,
    Calibration,
    Rows,
    calibrate,
    calibrate_rows,
    halves,
    most_accurate,
    rows_allowed,
    simulate,
)

CHEAP = CascadeCost(group_macs=(10, 20, 30, 40), critic_macs=(1, 2, 3))
Predictions = tuple[np.ndarray, np.ndarray]


def predictions(n_exits: int, n: int, seed: int = 0, sharpness: float = 3.0) -> Predictions:
    """Exits that get better with depth and find the same rows hard, as those of a network do; 4 classes."""
    rng = np.random.default_rng(seed)
    labels, difficulty = rng.integers(0, 4, n), rng.normal(size=n)
    logits = rng.normal(size=(n_exits, n, 4))
    skill = 0.6 + 0.5 * np.arange(n_exits)[:, None]
    logits[:, np.arange(n), labels] += sharpness * (skill - difficulty + 0.5 * rng.normal(size=(n_exits, n)))
    return logits.astype(np.float32), labels


def rows_of(*exits: Sequence[tuple[float, bool]]) -> Predictions:
    """Predictions of given (confidence, is right) per exit and row."""
    p = np.array([[confidence for confidence, _ in of_exit] for of_exit in exits])
    right = np.array([[is_right for _, is_right in of_exit] for of_exit in exits])
    first, second = np.where(right, p, 1 - p), np.where(right, 1 - p, p)
    return np.log(np.stack([first, second], axis=-1)).astype(np.float32), np.zeros(p.shape[1], dtype=np.int64)


def brute_force_macs(found: Predictions, cost: CascadeCost, max_drop_pct: float, exits: tuple[int, ...]) -> float:
    """Least mean MACs over every combination of thresholds, one by one."""
    confidences, predicted = softmax_confidence(found[0])
    kept, macs = [*exits, len(confidences) - 1], np.array(cost.exit_macs(exits))
    correct, n = correct_rows(predicted, found[1])[kept], len(found[1])
    levels = [[0.0, *np.unique(confidences[k]).tolist(), 2.0] for k in exits]
    means = []
    for choice in product(*levels):
        left_at = leave_at(confidences[kept], choice)
        lost = int(correct[-1].sum()) - int(correct[left_at, np.arange(n)].sum())
        means += [float(macs[left_at].mean())] if round(100 * lost / n, 6) <= max_drop_pct else []
    return min(means)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_drop_pct", [0.0, 2.5, 10.0, 100.0])
def test_as_cheap_as_brute_force(seed: int, max_drop_pct: float) -> None:
    found, cost = predictions(3, 40, seed), CascadeCost((10, 20, 30), (3, 4))
    subsets = [subset for size in range(3) for subset in combinations(range(2), size)]
    cheapest = {subset: brute_force_macs(found, cost, max_drop_pct, subset) for subset in subsets}
    assert calibrate(*found, cost, max_drop_pct).mean_macs == pytest.approx(min(cheapest.values()), rel=1e-12)
    for subset, macs in cheapest.items():
        by_hand = calibrate(*found, cost, max_drop_pct, exits=subset)
        assert by_hand.exits == subset
        assert by_hand.mean_macs == pytest.approx(macs, rel=1e-12)


@pytest.mark.parametrize("max_drop_pct", [0.0, 0.5, 2.0, 10.0])
def test_the_search_near_the_best_costs_hardly_more_than_trying_all(
    monkeypatch: pytest.MonkeyPatch, max_drop_pct: float
) -> None:
    found = predictions(4, 600, seed=1)
    monkeypatch.setattr(search, "EXACT_CELLS", 1 << 24)
    exact = calibrate(*found, CHEAP, max_drop_pct, exits=(0, 1, 2))
    monkeypatch.setattr(search, "EXACT_CELLS", 0)
    searched = calibrate(*found, CHEAP, max_drop_pct, exits=(0, 1, 2))
    assert exact.mean_macs <= searched.mean_macs <= 1.002 * exact.mean_macs


def test_thresholds_by_hand() -> None:
    found = rows_of(
        [(0.95, True), (0.90, True), (0.80, False), (0.60, True), (0.55, False)],
        [(0.99, True), (0.99, True), (0.99, True), (0.99, True), (0.99, False)],
    )
    cost = CascadeCost((10, 90), (5,))
    assert calibrate(*found, cost, 0.0) == Calibration(
        exits=(0,),
        thresholds=(pytest.approx(0.85, abs=1e-6),),  # midway between the last right row and the lost one
        accuracy_pct=80.0,
        drop_pct=0.0,
        mean_macs=(2 * 15 + 3 * 105) / 5,
        macs_ratio=(2 * 15 + 3 * 105) / 500,
        exit_fractions=(0.4, 0.6),
    )
    everything = calibrate(*found, cost, 20.0)  # one of five rows may be lost, exactly
    assert (everything.thresholds, everything.drop_pct, everything.mean_macs) == ((0.0,), 20.0, 15.0)
    assert calibrate(*found, cost, 19.9).thresholds == (pytest.approx(0.85, abs=1e-6),)


def test_a_gain_is_no_loss() -> None:
    found = rows_of([(0.9, True), (0.8, True)], [(0.9, True), (0.8, False)])
    result = calibrate(*found, CascadeCost((10, 90), (5,)), 0.0)
    assert (result.thresholds, result.drop_pct, result.mean_macs) == ((0.0,), -50.0, 15.0)


def test_a_row_may_go_on_for_a_gain_that_pays_for_another_loss() -> None:
    found = rows_of(
        [(0.95, True), (0.70, False), (0.60, False)],
        [(0.99, True), (0.95, True), (0.90, False)],
        [(0.99, True), (0.99, False), (0.99, True)],
    )
    result = calibrate(*found, CascadeCost((10, 10, 80), (1, 1)), 0.0)
    assert result.exit_fractions == (1 / 3, 2 / 3, 0.0)  # leaving at exit 0 would cost row 1 its gain
    assert result.mean_macs == pytest.approx((11 + 22 + 22) / 3)


def test_thresholds_lie_strictly_between_confidences_that_are_apart() -> None:
    found = predictions(4, 500, sharpness=9.0)
    confidences, _ = softmax_confidence(found[0])
    for max_drop_pct in (0.0, 0.4, 1.0, 3.0):
        result = calibrate(*found, CHEAP, max_drop_pct)
        for exit_index, threshold in zip(result.exits, result.thresholds, strict=True):
            assert float(np.float32(threshold)) == threshold  # what is exported is what was calibrated
            assert threshold == 0 or np.abs(confidences[exit_index].astype(np.float64) - threshold).min() > 9e-7


def test_confidences_too_close_to_tell_apart_leave_together() -> None:
    found = rows_of([(0.9, True), (0.9 - 1e-6, False)], [(0.99, True), (0.99, True)])
    result = calibrate(*found, CascadeCost((10, 90), (5,)), 0.0, exits=(0,))
    assert result.thresholds == (NEVER,)
    assert result.mean_macs == 105.0


@pytest.mark.parametrize("max_drop_pct", [0.0, 0.3, 1.0, 5.0])
def test_what_is_reported_is_what_the_thresholds_do_and_within_the_budget(max_drop_pct: float) -> None:
    logits, labels = predictions(4, 1000, seed=2)
    result = calibrate(logits, labels, CHEAP, max_drop_pct)
    again = progressive(
        logits[[*result.exits, 3]], labels, result.thresholds, CHEAP.exit_macs(result.exits), CHEAP.main_macs
    )
    assert (result.accuracy_pct, result.mean_macs) == (again.accuracy_pct, again.mean_macs)
    assert (result.macs_ratio, result.exit_fractions) == (again.macs_ratio, again.exit_fractions)
    assert result.drop_pct <= max_drop_pct
    assert result.mean_macs < CHEAP.main_macs


@pytest.mark.parametrize("exact_cells", [search.EXACT_CELLS, 0])
def test_a_larger_budget_never_costs_more(monkeypatch: pytest.MonkeyPatch, exact_cells: int) -> None:
    monkeypatch.setattr(search, "EXACT_CELLS", exact_cells)
    found = predictions(4, 300, seed=3)
    macs = [calibrate(*found, CHEAP, lost / 3).mean_macs for lost in range(30)]
    assert macs == sorted(macs, reverse=True)
    assert macs[0] > macs[-1]


def test_exits_that_do_not_pay_are_dropped() -> None:
    found = predictions(4, 400)
    dear = CascadeCost((10, 20, 30, 40), (500, 500, 500))
    alone = calibrate(*found, dear, 0.0)
    assert (alone.exits, alone.thresholds, alone.mean_macs, alone.drop_pct) == ((), (), 100.0, 0.0)
    assert alone.exit_fractions == (1.0,)
    one_is_cheap = calibrate(*found, CascadeCost((10, 20, 30, 40), (500, 1, 500)), 1.0)
    assert one_is_cheap.exits == (1,)


def test_exits_by_hand_are_kept_even_where_they_do_not_pay() -> None:
    found = predictions(4, 400)
    result = calibrate(*found, CascadeCost((10, 20, 30, 40), (500, 500, 500)), 0.0, exits=[2, 0])
    assert result.exits == (0, 2)
    assert result.mean_macs > 100
    assert calibrate(*found, CHEAP, 1.0, exits=()).exits == ()


def test_a_row_without_confidence_goes_on() -> None:
    logits, labels = predictions(3, 100)
    logits[0, :30] = np.nan
    result = calibrate(logits, labels, CascadeCost((10, 20, 30), (1, 1)), 100.0, exits=(0,))
    assert result.thresholds == (0.0,)
    assert result.exit_fractions == (0.7, 0.3)


@pytest.mark.parametrize("max_drop_pct", [0.0, 2.0, 100.0])
def test_the_search_counts_what_the_cascade_does(max_drop_pct: float) -> None:
    logits, labels = predictions(4, 200, seed=5)
    logits[0, ::3], logits[1, ::7], logits[3, ::11] = np.nan, np.inf, np.nan
    confidences, predicted = softmax_confidence(logits)
    rows = search.Rows(confidences, correct_rows(predicted, labels), CHEAP)
    for exits in ((0,), (0, 1), (0, 1, 2)):
        expected = calibrate(logits, labels, CHEAP, max_drop_pct, exits=exits)
        setting = search.cheapest_settings(rows, rows.losses(), rows_allowed(200, max_drop_pct), exits)[-1]
        assert setting.total_macs == pytest.approx(200 * expected.mean_macs, rel=1e-12)
        assert expected.drop_pct <= max_drop_pct


def test_many_exits_are_added_one_by_one() -> None:
    found = predictions(8, 300)
    cost = CascadeCost((10,) * 8, (1,) * 7)
    result = calibrate(*found, cost, 2.0)
    assert result.drop_pct <= 2.0
    single = min(calibrate(*found, cost, 2.0, exits=(k,)).mean_macs for k in range(7))
    assert result.mean_macs < single


def test_rows_of_the_wrong_number_of_exits_are_refused() -> None:
    rows = Rows(np.zeros((3, 5), dtype=np.float32), np.zeros((3, 5), dtype=np.bool_), CHEAP)
    with pytest.raises(ValueError, match="3 exits do not go with 4 groups"):
        calibrate_rows(rows, 1.0)


def test_one_exit_is_main_alone() -> None:
    assert calibrate(*predictions(1, 10), CascadeCost((10,), ()), 1.0).mean_macs == 10.0


def test_with_confidence_the_drop_is_bounded_on_the_half_that_did_not_choose() -> None:
    logits, labels = predictions(4, 2000)
    result = calibrate(logits, labels, CHEAP, 2.0, confidence=0.95, seed=7)
    deciding = np.sort(np.random.default_rng(7).permutation(2000)[1000:])
    confidences, predicted = softmax_confidence(logits[[*result.exits, 3]][:, deciding])
    correct = correct_rows(predicted, labels[deciding])
    cascade_correct = correct[leave_at(confidences, result.thresholds), np.arange(1000)]
    assert result.exits
    assert result.drop_upper_pct == paired_drop_upper_pct(correct[-1], cascade_correct, 0.95)
    assert result.drop_upper_pct <= 2.0
    assert result.drop_pct < result.drop_upper_pct
    whole = progressive(
        logits[[*result.exits, 3]], labels, result.thresholds, CHEAP.exit_macs(result.exits), CHEAP.main_macs
    )
    assert (result.accuracy_pct, result.mean_macs) == (whole.accuracy_pct, whole.mean_macs)  # of all rows
    assert result == calibrate(logits, labels, CHEAP, 2.0, confidence=0.95, seed=7)
    assert result != calibrate(logits, labels, CHEAP, 2.0, confidence=0.95, seed=8)
    assert result.mean_macs > calibrate(logits, labels, CHEAP, 2.0).mean_macs


def test_the_walk_stops_at_the_first_bound_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    found = predictions(3, 1000)
    uppers = iter([1.0, 1.5, 2.5, 0.1])
    sequence = [search.Setting((0,), (threshold,), 1.0) for threshold in (0.9, 0.8, 0.7, 0.6)]
    monkeypatch.setattr(module, "_safest_first", lambda *_: sequence)
    monkeypatch.setattr(module, "_drop_upper_pct", lambda *_: next(uppers))
    result = calibrate(*found, CascadeCost((10, 20, 30), (1, 1)), 2.0, confidence=0.9)
    assert (result.thresholds, result.drop_upper_pct) == ((0.8,), 1.5)


def test_the_walk_goes_from_safe_to_cheap() -> None:
    logits, labels = predictions(4, 1500)
    confidences, predicted = softmax_confidence(logits)
    rows = search.Rows(confidences, correct_rows(predicted, labels), CHEAP)
    walk = module._safest_first(rows, 2.0, None, 0.95)
    uppers = [module._drop_upper_pct(rows, setting, 0.95) for setting in walk]
    macs = [setting.total_macs for setting in walk]
    assert len(walk) > 5
    assert uppers == sorted(uppers)
    assert macs == sorted(set(macs), reverse=True)


@pytest.mark.parametrize("n", [1, 60])
def test_where_nothing_can_be_shown_main_stays_alone(n: int) -> None:
    result = calibrate(*predictions(3, n), CascadeCost((10, 20, 30), (1, 1)), 0.5, confidence=0.95)
    assert (result.exits, result.drop_pct, result.drop_upper_pct, result.mean_macs) == ((), 0.0, 0.0, 60.0)


@pytest.mark.parametrize(
    ("n", "max_drop_pct", "allowed"),
    [
        (1000, 0.3, 3),
        (1000, 0.29, 2),
        (10_000, 0.29, 29),
        (3, 33.333333, 1),
        (7, 100.0, 7),
        (500, 0.0, 0),
        (5, 19.9, 0),
        (10_000, 50.0, 5000),
    ],
)
def test_rows_that_may_be_lost(n: int, max_drop_pct: float, allowed: int) -> None:
    assert rows_allowed(n, max_drop_pct) == allowed


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_drop_pct": -1.0},
        {"max_drop_pct": 101.0},
        {"max_drop_pct": float("nan")},
        {"confidence": 1.0},
        {"exits": (2,)},
        {"cost": CHEAP},
    ],
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    logits, labels = predictions(3, 20)
    arguments: dict[str, object] = {"cost": CascadeCost((10, 20, 30), (1, 1)), "max_drop_pct": 1.0, **wrong}
    with pytest.raises(ValueError, match="max_drop_pct|confidence|ascending choice|groups"):
        calibrate(logits, labels, **arguments)


TEMPERATURES = (1.7, 0.6, 1.2, 1.0)
NANOSECONDS = CascadeCost((900_000, 100_000, 300_000, 200_000), (250_000, 20_000, 5_000))
"""Other proportions than `CHEAP`: the cheapest setting by one is not that by the other."""
Tried = list[tuple[tuple[int, ...], int, int, int]]


def every_setting(rows: Rows) -> Tried:
    """Exits, rows lost, MACs and nanoseconds of every choice of exits and thresholds, each row walked by itself."""
    n_early = len(rows.correct) - 1
    subsets = [subset for size in range(n_early + 1) for subset in combinations(range(n_early), size)]
    return [(subset, *outcome) for subset in subsets for outcome in settings_of(rows, subset)]


def settings_of(rows: Rows, exits: tuple[int, ...]) -> set[tuple[int, int, int]]:
    macs, ns = CHEAP.exit_macs(exits), NANOSECONDS.exit_macs(exits)
    table = [[score_of(rows, exits, at, row) for row in range(rows.n)] for at in range(len(exits))]
    levels = [[0.0, *sorted({score for score in of_exit if score > 0}), 2.0] for of_exit in table]
    found = set()
    for choice in product(*levels):
        lost = paid = waited = 0
        for row in range(rows.n):
            at = next((at for at, limit in enumerate(choice) if table[at][row] >= limit), len(exits))
            lost += int(rows.correct[-1, row]) - int(rows.correct[(*exits, -1)[at], row])
            paid, waited = paid + macs[at], waited + ns[at]
        found.add((lost, paid, waited))
    return found


def score_of(rows: Rows, exits: tuple[int, ...], at: int, row: int) -> float:
    """What a row that comes to an exit is held by, the exits before it being those of ``exits``."""
    if rows.classes is not None and at and rows.classes[exits[at], row] != rows.classes[exits[at - 1], row]:
        return 0.0 * float(rows.confidences[exits[at], row])
    return float(rows.confidences[exits[at], row])


def small_rows(criterion: Criterion, seed: int) -> Rows:
    """Eight rows of four exits, where agreement is not a matter of course; one has no confidence at an exit."""
    logits, labels = predictions(4, 8, 10 + seed, sharpness=1.2)
    logits[0, 3, 1], logits[1, 5, 0] = np.nan, np.inf
    return module.rows_of(logits, labels, CHEAP, criterion, TEMPERATURES)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("criterion", CRITERIA)
def test_of_every_criterion_as_cheap_and_as_accurate_as_brute_force(criterion: Criterion, seed: int) -> None:
    rows = small_rows(criterion, seed)
    tried = every_setting(rows)
    for allowed in range(3):
        expected = min(paid for _, lost, paid, _ in tried if lost <= allowed)
        assert calibrate_rows(rows, 100 * allowed / 8).mean_macs * 8 == pytest.approx(expected, rel=1e-12)
    for limit in {paid for *_, paid, _ in tried}:
        found = most_accurate(rows, CHEAP, limit / 8)
        best = min((lost, paid) for _, lost, paid, _ in tried if paid <= limit)
        assert found is not None
        assert (found.drop_pct * 8 / 100, found.mean_macs * 8) == pytest.approx(best, rel=1e-12)
    assert most_accurate(rows, CHEAP, min(paid for *_, paid, _ in tried) / 8 - 1e-6) is None


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_limit_in_other_units_than_macs(criterion: Criterion) -> None:
    rows = small_rows(criterion, 3)
    tried = every_setting(rows)
    limits = sorted({waited for *_, waited in tried})
    for limit in limits[:: max(1, len(limits) // 60)]:
        found = most_accurate(rows, NANOSECONDS, limit / 8)
        best = min((lost, waited) for _, lost, _, waited in tried if waited <= limit)
        assert found is not None
        waited = sum(f * ns for f, ns in zip(found.exit_fractions, NANOSECONDS.exit_macs(found.exits), strict=True))
        assert (found.drop_pct * 8 / 100, waited * 8) == pytest.approx(best, rel=1e-9)
        macs = sum(f * macs for f, macs in zip(found.exit_fractions, CHEAP.exit_macs(found.exits), strict=True))
        assert found.mean_macs == pytest.approx(macs)  # what is reported stays in MACs
    assert most_accurate(rows, NANOSECONDS, limits[0] / 8 - 1) is None


@pytest.mark.parametrize("criterion", CRITERIA)
def test_chosen_exits_are_kept_within_any_budget(criterion: Criterion) -> None:
    rows = small_rows(criterion, 4)
    for exits in ((1,), (0, 2), (0, 1, 2)):
        tried = settings_of(rows, exits)
        for limit in sorted({paid for _, paid, _ in tried})[::3]:
            found = most_accurate(rows, CHEAP, limit / 8, exits)
            assert found is not None
            assert found.exits == exits
            best = min((lost, paid) for lost, paid, _ in tried if paid <= limit)
            assert (found.drop_pct * 8 / 100, found.mean_macs * 8) == pytest.approx(best, rel=1e-12)
        assert most_accurate(rows, CHEAP, min(paid for _, paid, _ in tried) / 8 - 0.01, exits) is None
        assert most_accurate(rows, CHEAP, 1e9, exits[::-1]) == most_accurate(rows, CHEAP, 1e9, exits)


def test_main_alone_has_one_price() -> None:
    rows = small_rows("softmax", 0)
    assert most_accurate(rows, CHEAP, 100.0, ()) == calibrate_rows(rows, 0.0, ())
    assert most_accurate(rows, CHEAP, 99.999999, ()) is None


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


@pytest.mark.parametrize("criterion", CRITERIA)
def test_rows_of_logits_give_what_logits_give(criterion: Criterion) -> None:
    logits, labels = predictions(4, 300, seed=6)
    rows = module.rows_of(logits, labels, CHEAP, criterion, TEMPERATURES)
    found = calibrate(logits, labels, CHEAP, 1.0, criterion=criterion, temperatures=TEMPERATURES)
    assert found == calibrate_rows(rows, 1.0)
    assert found.exits
    kept = [*found.exits, 3]
    again = progressive(
        logits[kept],
        labels,
        found.thresholds,
        CHEAP.exit_macs(found.exits),
        CHEAP.main_macs,
        criterion,
        [TEMPERATURES[k] for k in kept],
    )
    assert again == simulate(rows, found.exits, found.thresholds)
    assert (found.accuracy_pct, found.mean_macs) == (again.accuracy_pct, again.mean_macs)
    np.testing.assert_array_equal(rows.confidences, scores(logits, criterion, TEMPERATURES)[0])
    assert (rows.classes is None) == (criterion != "agreement")


@pytest.mark.parametrize("criterion", CRITERIA)
def test_of_every_criterion_the_bound_holds_on_the_half_that_decides(criterion: Criterion) -> None:
    rows = module.rows_of(*predictions(4, 2000), CHEAP, criterion)
    result = calibrate_rows(rows, 2.0, confidence=0.95, seed=7)
    _, deciding = halves(2000, 7)
    kept = [*result.exits, 3]
    left_at = leave_at(rows.take(deciding).scores(kept), result.thresholds)
    correct = rows.correct[:, deciding]
    cascade_correct = correct[kept][left_at, np.arange(1000)]
    assert result.exits
    assert result.drop_upper_pct == paired_drop_upper_pct(correct[-1], cascade_correct, 0.95)
    assert result.drop_upper_pct <= 2.0


@pytest.mark.parametrize("n", [0, 1, 2, 7, 1000])
def test_halves(n: int) -> None:
    first, second = halves(n, 3)
    assert sorted([*first, *second]) == list(range(n))
    assert (len(first), len(second)) == (n // 2, n - n // 2)
    assert all(np.all(np.diff(half) > 0) for half in (first, second))
    again = halves(n, 3)
    assert [half.tolist() for half in again] == [first.tolist(), second.tolist()]
    if n == 1000:
        assert halves(n, 4)[0].tolist() != first.tolist()
        assert 150 < np.sum(first < 500) < 350


def test_some_of_the_rows_keep_their_classes() -> None:
    rows = small_rows("agreement", 0)
    some = rows.take(np.array([6, 1, 3]))
    assert some.n == 3
    np.testing.assert_array_equal(some.scores((0, 2)), rows.scores((0, 2))[:, [6, 1, 3]])
    np.testing.assert_array_equal(some.correct, rows.correct[:, [6, 1, 3]])


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_search_near_the_best_loses_hardly_more_than_trying_all(
    monkeypatch: pytest.MonkeyPatch, criterion: Criterion
) -> None:
    rows = module.rows_of(*predictions(4, 300, seed=1), CHEAP, criterion)
    for limit in (30.0, 60.0):
        monkeypatch.setattr(search, "EXACT_CELLS", 1 << 24)
        exact = most_accurate(rows, CHEAP, limit, (0, 1, 2))
        monkeypatch.setattr(search, "EXACT_CELLS", 0)
        searched = most_accurate(rows, CHEAP, limit, (0, 1, 2))
        assert exact is not None
        assert searched is not None
        assert exact.drop_pct <= searched.drop_pct <= exact.drop_pct + 0.34  # one of 300 rows
        assert max(exact.mean_macs, searched.mean_macs) <= limit


def test_more_to_spend_never_loses_more() -> None:
    rows = module.rows_of(*predictions(4, 200, seed=3), CHEAP)
    drops = [found.drop_pct for limit in range(12, 120, 9) if (found := most_accurate(rows, CHEAP, limit))]
    assert drops == sorted(drops, reverse=True)
    assert drops[0] > drops[-1]


def test_of_many_exits_the_most_accurate_are_added_one_by_one() -> None:
    cost = CascadeCost((10,) * 8, (1,) * 7)
    rows = module.rows_of(*predictions(8, 300), cost)
    found = most_accurate(rows, cost, 35.0)
    assert found is not None
    assert found.mean_macs <= 35.0
    singles = [single.drop_pct for k in range(7) if (single := most_accurate(rows, cost, 35.0, (k,)))]
    assert found.drop_pct < min(singles)
    assert most_accurate(rows, cost, 10.9) is None  # group and critic of the first exit cost 11


def test_what_is_limited_has_as_many_exits() -> None:
    with pytest.raises(ValueError, match="4 exits do not go with 2 groups"):
        most_accurate(small_rows("softmax", 0), CascadeCost((1, 2), (1,)), 5.0)


def ended(found: Predictions, cost: CascadeCost, k: int) -> Rows:
    return module.rows_of(*found, cost).ending_at(k)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_drop_pct", [4.0, 10.0])
def test_a_cascade_that_ends_before_main_is_as_cheap_as_brute_force(seed: int, max_drop_pct: float) -> None:
    """Its cost is that of its own exits, its drop is still measured from main."""
    found, cost = predictions(3, 40, seed), CascadeCost((2, 3, 5), (1, 1))
    rows = ended(found, cost, 2)
    assert rows.cost == CascadeCost((2, 4), (1,))
    main, last = (100 * module.rows_of(*found, cost).correct[k].mean() for k in (-1, 1))
    lost_pct = main - last
    if lost_pct > max_drop_pct:
        with pytest.raises(ValueError, match="the last exit alone loses more"):
            calibrate_rows(rows, max_drop_pct)
        return
    chosen = calibrate_rows(rows, max_drop_pct, (0,))
    best = brute_force_macs((found[0][:2], found[1]), rows.cost, max_drop_pct - lost_pct + 1e-9, (0,))
    assert chosen.mean_macs == pytest.approx(best)
    assert chosen.drop_pct == pytest.approx(main - chosen.accuracy_pct, abs=1e-6)


def test_with_confidence_a_last_exit_before_main_has_a_bound_of_its_own() -> None:
    found, cost = predictions(3, 4000, 1), CascadeCost((2, 3, 5), (1, 1))
    rows = ended(found, cost, 2)
    _, deciding = halves(rows.n, 0)
    alone = paired_drop_upper_pct(rows.main_correct[deciding], rows.correct[-1][deciding], 0.9)
    assert alone > 0
    chosen = calibrate_rows(rows, alone + 5, confidence=0.9)
    assert chosen.drop_upper_pct is not None
    assert chosen.drop_upper_pct <= alone + 5
    hopeless = calibrate_rows(rows, max(0.0, alone - 1), confidence=0.9)
    assert (hopeless.exits, hopeless.drop_upper_pct) == ((), alone)


@pytest.mark.parametrize("seed", range(4))
def test_many_exits_are_grown_as_by_brute_force(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """The exit that saves most at the limit is kept next; a smaller budget has the best of all that were kept."""
    monkeypatch.setattr(search, "MAX_SUBSETS_OF", 2)
    rows = small_rows("softmax", seed)
    tried = every_setting(rows)

    def cheapest(exits: tuple[int, ...], allowed: int) -> int:
        return min(paid for of, lost, paid, _ in tried if of == exits and lost <= allowed)

    for limit in range(4):
        path: list[tuple[int, ...]] = [()]
        while larger := [tuple(sorted((*path[-1], k))) for k in range(3) if k not in path[-1]]:
            best = min(larger, key=lambda exits: cheapest(exits, limit))
            if cheapest(best, limit) >= cheapest(path[-1], limit):
                break
            path.append(best)
        found = search.cheapest_settings(rows, rows.losses(), limit, None)
        expected = [min(cheapest(exits, step) for exits in path) for step in range(limit + 1)]
        assert [setting.total_macs for setting in found] == expected
        assert found[-1].exits == path[-1]


def test_a_confidence_is_at_least_one_half_and_below_one() -> None:
    alone = Rows(np.zeros((1, 20), dtype=np.float32), np.ones((1, 20), dtype=np.bool_), CascadeCost((10,), ()))
    for confidence in (0.49, 1.0, 1.5, 2.0):
        with pytest.raises(ValueError, match="confidence"):
            calibrate_rows(alone, 1.0, confidence=confidence)
    assert calibrate_rows(alone, 1.0, confidence=0.5).mean_macs == 10.0


def test_at_one_half_the_bound_is_the_drop_itself() -> None:
    rows = Rows(np.full((2, 20), 0.5, dtype=np.float32), np.ones((2, 20), dtype=np.bool_), CascadeCost((10, 90), (5,)))
    found = calibrate_rows(rows, 0.0, confidence=0.5)
    assert (found.exits, found.mean_macs) == ((0,), 15.0)
    assert found.drop_upper_pct == pytest.approx(0.0, abs=1e-6)


def test_the_halves_are_those_of_seed_0_unless_told() -> None:
    found = predictions(4, 600)
    rows = module.rows_of(*found, CHEAP)
    told = [calibrate_rows(rows, 4.0, confidence=0.9, seed=seed) for seed in range(2)]
    assert told[0] != told[1]
    assert calibrate_rows(rows, 4.0, confidence=0.9) == calibrate(*found, CHEAP, 4.0, confidence=0.9) == told[0]


def test_with_confidence_chosen_exits_are_kept() -> None:
    rows = module.rows_of(*predictions(4, 1500), CHEAP)
    for exits in ((1,), (0, 2)):
        assert calibrate_rows(rows, 3.0, exits, confidence=0.9).exits == exits
        assert {setting.exits for setting in module._safest_first(rows, 3.0, exits, 0.9)} == {exits}


def test_without_a_row_to_search_nothing_is_chosen() -> None:
    found = calibrate_rows(small_rows("softmax", 0).take(np.array([0])), 100.0, (0,), confidence=0.9)
    assert (found.exits, found.drop_upper_pct) == ((), 0.0)


@pytest.mark.parametrize(
    ("outcomes", "leaving"),
    [
        ("=====-+=====-+=====-", [5, 12, 19]),  # what loses nothing, one against one gain, two against two
        ("==========-=========", [10]),  # one lost, with nothing gained for it, is over the budget
    ],
)
def test_the_walk_by_hand(outcomes: str, leaving: list[int]) -> None:
    """Rows of falling confidence, lost (-) or gained (+) at exit 0; exit 1 is always wrong."""
    right = [[outcome != "-" for outcome in outcomes], [False] * 20, [outcome != "+" for outcome in outcomes]]
    confidences = np.array([np.linspace(0.9, 0.1, 20), np.full(20, 0.5), np.full(20, 0.5)], dtype=np.float32)
    rows = Rows(confidences, np.array(right), CascadeCost((10, 10, 80), (5, 5)))
    walk = module._safest_first(rows, 0.0, None, 0.9)
    assert {setting.exits for setting in walk} == {(0,)}
    assert [setting.total_macs for setting in walk] == [15 * left + 105 * (20 - left) for left in leaving]


def test_a_less_safe_setting_that_saves_no_more_is_left_out() -> None:
    """Exit 1 costs as much as exit 0, which loses the one row that may be lost."""
    right = np.ones((3, 10), dtype=np.bool_)
    right[0, 0] = False
    rows = Rows(np.full((3, 10), 0.5, dtype=np.float32), right, CascadeCost((10, 0, 90), (5, 5)))
    assert search.cheapest_settings(rows, rows.losses(), 1, None)[-1].exits == (0,)
    assert module._safest_first(rows, 10.0, None, 0.9) == [search.Setting((1,), (0.0,), 150.0)]
