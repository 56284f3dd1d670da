"""Temperatures, held against halving the bracket of the slope in float64."""

import numpy as np
import pytest

from lcprune.analysis.temperature import BOUNDS, temperatures
from lcprune_runtime import criterion


def slope(logits: np.ndarray, labels: np.ndarray, inverse: float) -> float:
    """Of the mean negative log-likelihood by 1 / T, in float64."""
    values = logits.astype(np.float64)
    weights = np.exp(inverse * (values - values.max(axis=1, keepdims=True)))
    expected = (weights * values).sum(axis=1) / weights.sum(axis=1)
    return float(np.mean(expected - values[np.arange(len(labels)), labels]))


def bisected(logits: np.ndarray, labels: np.ndarray) -> float:
    low, high = 1 / BOUNDS[1], 1 / BOUNDS[0]
    for _ in range(46):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(logits, labels, middle) > 0 else (middle, high)
    return 1 / low


def drawn(n: int, classes: int, true: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``(n, C)`` whose labels are drawn from softmax(logits / true)."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(n, classes)) * 3 * true).astype(np.float32)
    labels = np.argmax(logits / true + rng.gumbel(size=(n, classes)), axis=1)
    return logits, labels


@pytest.mark.parametrize(("n", "classes"), [(30, 2), (30, 100), (600, 10), (4500, 2), (4500, 10)])
@pytest.mark.parametrize("true", [0.1, 0.6, 1.0, 1.7, 8.0])
def test_exact_to_a_millionth(classes: int, true: float, n: int) -> None:
    logits, labels = drawn(n, classes, true, seed=n + classes)
    (found,) = temperatures(logits[None], labels)
    assert found == pytest.approx(bisected(logits, labels), rel=1e-6)
    if n == 4500:
        assert found == pytest.approx(true, rel=0.15)


def test_by_hand() -> None:
    """Three of four rows are right with a lead of a: the odds of 3 come from T = a / log 3."""
    logits = np.array([[2, 0], [2, 0], [2, 0], [2, 0]], dtype=np.float32)
    assert temperatures(logits[None], np.array([0, 0, 1, 0])) == (pytest.approx(2 / np.log(3), rel=1e-6),)


def test_every_exit_has_its_own() -> None:
    first, labels = drawn(300, 5, 2.0, seed=3)
    second = first[::-1] * np.float32(0.1) + np.eye(5, dtype=np.float32)[labels]
    found = temperatures(np.stack([first, second]), labels)
    assert found == pytest.approx([bisected(first, labels), bisected(second, labels)], rel=1e-6)
    assert abs(found[0] - found[1]) > 0.5


def test_logits_that_are_very_sure_and_very_large() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 10, 4000)
    logits = rng.normal(size=(4000, 10)).astype(np.float32)
    logits[np.arange(4000), (labels + (rng.random(4000) < 0.01)) % 10] += 30  # one of a hundred is surely wrong
    logits += np.float32(1000) * rng.normal(size=(4000, 1)).astype(np.float32)
    assert temperatures(logits[None], labels)[0] == pytest.approx(bisected(logits, labels), rel=1e-6)


def test_rows_without_finite_logits_have_no_say() -> None:
    logits, labels = drawn(60, 4, 2.0, seed=8)
    (expected,) = temperatures(logits[None], labels)
    spoilt = np.repeat(logits, 2, axis=0)
    spoilt[1::6, 0], spoilt[3::6, 1], spoilt[5::6, 2] = np.nan, np.inf, -np.inf
    (found,) = temperatures(spoilt[None], np.repeat(labels, 2))
    assert found == pytest.approx(expected, rel=1e-6)
    assert temperatures(np.full((2, 5, 3), np.nan, dtype=np.float32), np.zeros(5, dtype=np.int64)) == (1.0, 1.0)
    assert temperatures(np.zeros((2, 0, 3), dtype=np.float32), np.zeros(0, dtype=np.int64)) == (1.0, 1.0)


def test_without_a_best_one_the_bounds_hold() -> None:
    logits = np.tile(np.array([1, 0, 0], dtype=np.float32), (50, 1))[None]
    (always_right,), (always_wrong,) = (temperatures(logits, np.full(50, label)) for label in (0, 1))
    assert always_right == pytest.approx(BOUNDS[0], rel=1e-3)
    assert always_wrong == pytest.approx(BOUNDS[1], rel=1e-3)
    assert BOUNDS[0] <= always_right < always_wrong <= BOUNDS[1]
    nothing_known = np.zeros((1, 50, 3), dtype=np.float32)
    assert temperatures(nothing_known, np.zeros(50, dtype=np.int64)) == (1.0,)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="labels are"):
        temperatures(np.zeros((1, 3, 2), dtype=np.float32), np.zeros(2, dtype=np.int64))
    with pytest.raises(ValueError, match="not"):
        temperatures(np.zeros((1, 3, 0), dtype=np.float32), np.zeros(3, dtype=np.int64))


def test_rows_are_looked_at_in_chunks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn(200, 5, 3.0, seed=1)
    logits = np.stack([logits, logits[::-1]])
    whole = temperatures(logits, labels)
    monkeypatch.setattr(criterion, "CHUNK_VALUES", 5 * 7)
    assert temperatures(logits, labels) == pytest.approx(whole, rel=1e-6)
    assert 1.5 < whole[0] < 20  # neither a bound nor 1


def test_logits_as_far_apart_as_float32_goes_have_no_say_and_no_warning() -> None:
    rng = np.random.default_rng(2)
    logits, labels = 3 * rng.normal(size=(1, 50, 2)), rng.integers(0, 2, 50)
    with_one = np.concatenate([logits, [[[3e38, -3e38]]]], axis=1)
    assert temperatures(with_one, np.append(labels, 1)) == pytest.approx(temperatures(logits, labels), rel=1e-6)


def test_an_exit_that_is_certain_and_wrong_is_as_cool_as_it_may_be() -> None:
    """Its probabilities are 0 and 1, so that the loss is straight."""
    assert temperatures(np.array([[[1e5, 0.0]] * 3]), np.array([1, 1, 1])) == pytest.approx((20.0,), rel=1e-3)
