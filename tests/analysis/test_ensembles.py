"""Ways to combine exits, on cases worked out by hand."""

import numpy as np
import pytest
from scipy.special import softmax

from lcprune.analysis import ensembles
from lcprune.analysis.ensembles import EnsembleResult, ensemble_pct, ensemble_table, fit_weights
from lcprune_runtime import criterion


def rows(*values: float) -> np.ndarray:
    """Two-class logits ``(n, 2)``: `values` for class 0, 0 for class 1."""
    return np.stack([np.array(values), np.zeros(len(values))], axis=1).astype(np.float32)


def noisy(seed: int, n: int = 300, signal: tuple[float, ...] = (1, 2, 3)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    logits = rng.normal(size=(len(signal), n, 4)).astype(np.float32)
    for of_exit, strength in zip(logits, signal, strict=True):
        of_exit[np.arange(n), labels] += strength
    return logits, labels


def test_the_three_kinds_by_hand() -> None:
    # Sums of logits: 4 - 3 = 1 and -2 + 1 = -1: class 0, then 1.
    # Sums of probabilities of class 0: s(4) + s(-3) = 0.982 + 0.047 > 1 is class 0; s(-2) + s(1) = 0.119 + 0.731 < 1.
    logits = np.stack([rows(4, -2), rows(-3, 1)])
    table = ensemble_table(None, None, logits, np.array([0, 0]))
    assert table == (
        EnsembleResult("1+main", "logits", 50.0, (0.5, 0.5)),
        EnsembleResult("1+main", "probabilities", 50.0, (0.5, 0.5)),
    )


def test_an_exit_that_is_very_sure_outvotes_in_logits_and_not_in_probabilities() -> None:
    logits = np.stack([rows(9), rows(-2), rows(-2)])  # 9 - 4 > 0, but s(9) + 2 s(-2) = 1.238 < 1.5
    found = {(row.members, row.kind): row.accuracy_pct for row in ensemble_table(None, None, logits, np.array([0]))}
    assert found[("1+2+main", "logits")] == 100
    assert found[("1+2+main", "probabilities")] == 0
    assert [row.members for row in ensemble_table(None, None, logits, np.array([0]))] == ["1+2"] * 2 + ["1+2+main"] * 2


def test_weights_by_hand() -> None:
    # Exit 1 says 1 for class 0 whatever the row; exit 2 says 1 for three rows of class 0 and for one of class 1. Alone,
    # w * 1 must be the log-odds of 3 : 1. The two exits are alike, so only their sum matters; a third that says -1
    # would need a negative weight and gets none.
    labels = np.array([0, 0, 0, 1])
    logits = np.stack([rows(1, 1, 1, 1), rows(-1, -1, -1, -1)])
    assert fit_weights(logits, labels) == pytest.approx((1, 0), abs=1e-6)
    loss, gradient = ensembles._cross_entropy(np.array([np.log(3), 0.0]), logits, labels)
    assert loss == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))  # what 3 : 1 cannot go below
    assert gradient == pytest.approx([0, 0], abs=1e-12)


def test_an_exit_that_knows_nothing_gets_next_to_nothing() -> None:
    logits, labels = noisy(0, 4000, (0, 3))
    weights = fit_weights(logits, labels)
    assert sum(weights) == pytest.approx(1)
    assert weights[0] < 0.05


def test_the_validation_split_alone_decides_the_weights() -> None:
    val, test, other = noisy(2), noisy(3), noisy(4, signal=(3, 2, 1))
    weights = [row.weights for row in ensemble_table(*val, *test) if row.kind == "weighted"]
    assert weights == [row.weights for row in ensemble_table(*val, *other) if row.kind == "weighted"]
    assert weights == [fit_weights(val[0][:2], val[1]), fit_weights(*val)]
    best = ensembles._cross_entropy(np.array([1.0, 2.0, 3.0]), *val)[0]  # what the noise was made with
    found = ensembles.minimize(ensembles._cross_entropy, np.ones(3), args=val, jac=True, bounds=[(0, None)] * 3)
    assert found.fun < best


def test_without_validation_rows_the_weighted_kind_is_left_out() -> None:
    logits, labels = noisy(5)
    kinds = [row.kind for row in ensemble_table(logits[:, :0], labels[:0], logits, labels)]
    assert kinds == ["logits", "probabilities"] * 2
    assert ensemble_table(logits[:1], labels, logits[:1], labels) == ()


def test_rows_are_looked_at_in_chunks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    val, test = noisy(6), noisy(7)
    whole = ensemble_table(*val, *test)
    monkeypatch.setattr(criterion, "CHUNK_VALUES", 4 * 7)
    chunked = ensemble_table(*val, *test)
    assert [row.accuracy_pct for row in chunked] == [row.accuracy_pct for row in whole]
    for one, other in zip(chunked, whole, strict=True):
        assert one.weights == pytest.approx(other.weights, abs=1e-6)


def test_rows_that_are_not_finite_are_wrong_and_are_not_fitted() -> None:
    logits = np.stack([rows(np.inf, 1, 1), rows(1, 1, -2), rows(np.nan, 1, 1)])
    labels = np.array([0, 0, 1])
    table = ensemble_table(logits, labels, logits, labels)
    assert {row.kind: row.accuracy_pct for row in table if row.members == "1+2+main"} == pytest.approx(
        {"logits": 100 / 3, "probabilities": 100 / 3, "weighted": 200 / 3}  # 2/3: exit 2 alone is right about both
    )
    nothing = np.full((2, 1, 2), np.nan, dtype=np.float32)
    assert fit_weights(nothing, np.array([0])) == (0.5, 0.5)


def test_weighted_accuracy_by_hand() -> None:
    logits, labels = np.stack([rows(3, -3), rows(-2, 2)]), np.array([0, 0])
    assert ensemble_pct(logits, labels, (0.5, 0.5)) == 50
    assert ensemble_pct(logits, labels, (0.3, 0.7)) == 50
    assert ensemble_pct(np.stack([rows(3, 3), rows(-2, -2)]), labels, (0.3, 0.7)) == 0


def test_shapes_that_do_not_fit_are_refused() -> None:
    logits, labels = noisy(8)
    with pytest.raises(ValueError, match=r"labels are \(1,\)"):
        fit_weights(logits, labels[:1])
    with pytest.raises(ValueError, match="not \\(K, N, C\\)"):
        ensemble_table(None, None, logits[0], labels)


def test_summed_probabilities_are_those_of_a_plain_softmax() -> None:
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(scale=3, size=(4, 400, 5)), rng.integers(0, 5, 400)
    logits[:, :50] += 500  # the exponential of which is infinite
    logits[0, 0, :2] = 3e38, -3e38  # as far apart as float32 goes, and no warning
    plain = softmax(logits, axis=2)
    found = {result.members: result.accuracy_pct for result in ensemble_table(None, None, logits, labels)[1::2]}
    for members, size in (("1+2+3", 3), ("1+2+3+main", 4)):
        assert found[members] == 100 * (plain[:size].sum(axis=0).argmax(axis=1) == labels).mean()
        assert found[members] != 100 * (plain[size - 1].argmax(axis=1) == labels).mean()


def test_weights_add_up_to_one_whatever_the_best_scale_is_and_are_equal_where_none_helps() -> None:
    """An exit that is far too sure wants a weight near 0.1; one that is always wrong wants none."""
    rng = np.random.default_rng(6)
    labels = np.arange(200) % 2
    right = np.where(np.arange(200) < 160, labels, 1 - labels)
    sure = 20.0 * np.eye(2)[right]
    noise = rng.normal(scale=20, size=(200, 2))
    weights = fit_weights(np.stack([sure, noise]), labels)
    assert sum(weights) == pytest.approx(1)
    assert weights[0] > 0.8
    assert fit_weights(np.array([[[10.0, 0.0]] * 4, [[5.0, 0.0]] * 4]), np.ones(4, dtype=np.int64)) == (0.5, 0.5)
