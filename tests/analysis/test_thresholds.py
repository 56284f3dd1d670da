from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import pytest

from lcprune.analysis import search
from lcprune.analysis import thresholds as module
from lcprune.analysis.evaluate import CascadeCost, correct_rows, leave_at, progressive, softmax_confidence
from lcprune.analysis.intervals import paired_drop_upper_pct
from lcprune.analysis.thresholds import NEVER, Calibration, Rows, calibrate, calibrate_rows, rows_allowed

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
            assert np.float32(threshold) == threshold  # what is exported is what was calibrated
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
