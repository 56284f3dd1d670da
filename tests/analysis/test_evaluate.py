import numpy as np
import pytest

from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.ensembles import ensembles
from lcprune.analysis.evaluate import (
    ProgressiveResult,
    accuracies_pct,
    drop_pct,
    leave_at,
    sweep,
    within,
)
from lcprune_runtime import criterion
from lcprune_runtime.criterion import predicted_classes, scores

COST = CascadeCost(group_macs=(10, 20, 30, 40), critic_macs=(1, 2, 3))


def two_class(*probabilities: float) -> np.ndarray:
    """Logits ``(n, 2)`` whose softmax gives class 0 these probabilities."""
    p = np.array(probabilities)
    return np.stack([np.log(p), np.log(1 - p)], axis=1).astype(np.float32)


def odd_logits() -> np.ndarray:
    """``(3, 400, 50)``: noise, ties, very large values, and all kinds of values that are not finite."""
    rng = np.random.default_rng(1)
    logits = (4 * rng.normal(size=(3, 400, 50))).astype(np.float32)
    logits[:, :20] = np.round(logits[:, :20])  # ties
    logits[0, 20:24, 7] = [np.nan, np.inf, -np.inf, 3.4e38]
    logits[1, 23:26, 7] = [3.4e38, -3.4e38, -np.inf]
    logits[2, 30] = -np.inf
    return logits


def test_the_fast_softmax_is_the_plain_one_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criterion, "CHUNK_VALUES", 50 * 64)
    logits = odd_logits()
    finite = np.isfinite(logits).all(axis=2)
    clean = np.where(finite[..., None], logits, np.float32(0))
    with np.errstate(over="ignore"):
        exponentials = np.exp(clean - clean.max(axis=2, keepdims=True))
    plain = np.where(finite, exponentials.max(axis=2) / exponentials.sum(axis=2), np.float32(np.nan))
    classes = np.where(finite, clean.argmax(axis=2), -1)
    confidences, predictions = scores(logits)
    np.testing.assert_array_equal(confidences.view(np.int32), plain.view(np.int32))
    np.testing.assert_array_equal(predictions, classes)
    np.testing.assert_array_equal(predicted_classes(logits), classes)
    assert (~finite).sum() == 5


def test_ensembles_in_one_pass_are_the_plain_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criterion, "CHUNK_VALUES", 50 * 64)
    logits, labels = odd_logits(), np.random.default_rng(2).integers(0, 50, 400)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = {"1+2": logits[:2].sum(axis=0), "1+2+main": logits.sum(axis=0)}
    labels[:100] = sums["1+2"][:100].argmax(axis=1)
    right = {name: (summed.argmax(axis=1) == labels) & np.isfinite(summed).all(axis=1) for name, summed in sums.items()}
    assert ensembles(logits, labels) == {name: 100 * int(of.sum()) / 400 for name, of in right.items()}
    assert ensembles(logits.astype(np.float64), labels) == ensembles(logits, labels)


def test_shapes_that_do_not_fit_are_refused() -> None:
    logits = np.zeros((2, 3, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="not \\(K, N, C\\)"):
        predicted_classes(logits[:, :0])
    with pytest.raises(ValueError, match="not \\(K, N, C\\)"):
        scores(logits[0])
    with pytest.raises(ValueError, match="not \\(K, N, C\\)"):
        scores(logits[:, :0])
    with pytest.raises(ValueError, match="labels are"):
        accuracies_pct(logits, np.zeros(1, dtype=np.int64))
    with pytest.raises(ValueError, match="thresholds"):
        leave_at(np.zeros((3, 5), dtype=np.float32), [0.5])


def test_accuracy_of_every_exit() -> None:
    logits = np.stack([two_class(0.9, 0.9, 0.9, 0.9), two_class(0.9, 0.9, 0.1, 0.9)])
    assert accuracies_pct(logits, np.array([0, 0, 1, 1])) == (50.0, 75.0)


def test_ensembles_sum_the_outputs() -> None:
    logits = np.array([[[3.0, 0.0]], [[0.0, 2.0]], [[0.0, 2.0]]], dtype=np.float32)  # (3, 1, 2)
    assert ensembles(logits, np.array([1])) == {"1+2": 0.0, "1+2+main": 100.0}  # 3 > 2, but 3 < 4
    assert ensembles(logits[:2], np.array([1])) == {"1+main": 0.0}
    assert ensembles(logits, np.array([1]), ["1", "3", "4"]) == {"1+3": 0.0, "1+3+4": 100.0}
    assert ensembles(logits[:1], np.array([1])) == {}
    assert list(ensembles(np.zeros((4, 1, 2), dtype=np.float32), np.array([0]))) == ["1+2+3", "1+2+3+main"]


def test_macs_paid_at_every_exit() -> None:
    assert COST.main_macs == 100
    assert COST.exit_macs() == (11, 33, 66, 106)
    assert COST.exit_macs([0, 2]) == (11, 64, 104)
    assert COST.exit_macs([1]) == (32, 102)
    assert COST.exit_macs([]) == (100,)


@pytest.mark.parametrize("kept", [[3], [-1], [1, 0], [1, 1]])
def test_only_early_exits_in_order_can_be_kept(kept: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending choice"):
        COST.exit_macs(kept)


@pytest.mark.parametrize(("groups", "critics"), [((), ()), ((1, 2), ()), ((1, 2), (3, 4)), ((1, -2), (3,))])
def test_impossible_costs_are_refused(groups: tuple[int, ...], critics: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="critics|negative"):
        CascadeCost(groups, critics)


def test_a_row_leaves_at_the_first_exit_that_is_confident_enough() -> None:
    confidences = np.array([[0.9, 0.5, 0.5, np.nan, 0.9], [0.1, 0.7, 0.6, np.nan, 0.9]], dtype=np.float32)
    assert leave_at(confidences, [0.9, 0.7]).tolist() == [0, 1, 2, 2, 0]  # equal is enough, in float32
    assert leave_at(confidences, [0.9]).tolist() == [0, 1, 1, 1, 0]  # the last row of confidences is main's
    assert leave_at(confidences[:1], []).tolist() == [0, 0, 0, 0, 0]


def test_progressive_counts_accuracy_and_macs_where_the_rows_leave() -> None:
    logits = np.stack([two_class(0.95, 0.6, 0.4, 0.99), two_class(0.5, 0.9, 0.4, 0.5), two_class(0.9, 0.1, 0.9, 0.9)])
    labels = np.array([0, 0, 0, 1])
    result = sweep(logits, labels, exit_macs=(11, 33, 63), main_macs=60, thresholds=[[0.9, 0.8]])[0]
    # rows 0 and 3 leave at exit 0 (right, wrong), row 1 at exit 1 (right), row 2 goes to main (right)
    expected = ProgressiveResult(
        (0.9, 0.8), 75.0, (11 + 11 + 33 + 63) / 4, (11 + 11 + 33 + 63) / 240, (0.5, 0.25, 0.25)
    )
    assert result == expected


def test_no_early_exit_is_main_alone() -> None:
    result = sweep(np.stack([two_class(0.9, 0.4)]), np.array([0, 0]), exit_macs=(60,), main_macs=60, thresholds=[[]])[0]
    assert result == ProgressiveResult((), 50.0, 60.0, 1.0, (1.0,))


def test_progressive_refuses_the_costs_of_another_cascade() -> None:
    with pytest.raises(ValueError, match="not of one cascade"):
        sweep(np.stack([two_class(0.9)] * 2), np.array([0]), exit_macs=(1, 2, 3), main_macs=3, thresholds=[[0.5]])[0]


def test_sweep_tries_one_threshold_for_all_exits() -> None:
    logits = np.stack([two_class(0.92, 0.6), two_class(0.97, 0.7), two_class(0.9, 0.9)])
    labels = np.zeros(2, dtype=np.int64)
    results = sweep(logits, labels, exit_macs=(1, 2, 3), main_macs=3)
    assert [r.thresholds[0] for r in results] == [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
    assert results[4] == sweep(logits, labels, (1, 2, 3), 3, [[0.9, 0.9]])[0]
    assert [r.exit_fractions for r in results[4:]] == [(0.5, 0.0, 0.5), (0.0, 0.5, 0.5), (0.0, 0.0, 1.0)]
    assert sweep(logits, labels, (1, 2, 3), 3, thresholds=[0.95]) == results[5:6]


def test_a_drop_is_exact_and_an_exactly_met_budget_is_met() -> None:
    reference, candidate = np.arange(10_000) < 5002, np.arange(10_000) < 4972
    assert 50.02 - 49.72 > 0.3  # the trap
    assert drop_pct(reference, candidate) == 0.3
    assert drop_pct(candidate, reference) == -0.3
    assert within(50.02 - 49.72, 0.3)
    assert not within(0.300001, 0.3)


def test_the_first_exits_alone_end_with_what_was_a_critic() -> None:
    cost = CascadeCost((1, 20, 300), (4, 50))
    assert cost.kept((0, 1, 2)) == cost
    assert cost.kept((0, 1)) == CascadeCost((1, 70), (4,))
    assert cost.kept((0,)) == CascadeCost((5,), ())
    assert cost.kept((1,)) == CascadeCost((71,), ())
    assert cost.kept((0, 2)) == CascadeCost((1, 320), (4,))
    assert CascadeCost((0, 1), (0,)).main_macs == 1  # a group that only moves numbers costs nothing
