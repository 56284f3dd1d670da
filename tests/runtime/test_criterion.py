"""The scores of the criteria, held against their definitions in float64 and values by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from lcprune.specs import CRITERIA, Criterion
from lcprune_runtime import criterion as module
from lcprune_runtime.criterion import NO_PREDICTION, agreeing, predicted_classes, scores

ALONE: dict[Criterion, Callable[[np.ndarray], float]] = {
    "softmax": lambda p: float(p.max()),
    "margin": lambda p: float(np.sort(p)[-1] - np.sort(p)[-2]),
    "entropy": lambda p: 1 + float(np.sum(p[p > 0] * np.log(p[p > 0]))) / np.log(len(p)),
    "agreement": lambda p: float(p.max()),
}
"""What an exit says of one row of probabilities, by the definition."""


def by_definition(row: np.ndarray, criterion: Criterion, temperature: float) -> float:
    scaled = (row / np.float32(temperature)).astype(np.float64)  # the graph's logits are float32, divided or not
    exponentials = np.exp(scaled - scaled.max())
    return ALONE[criterion](exponentials / exponentials.sum())


def one_row(*probabilities: float) -> np.ndarray:
    """Logits ``(1, 1, C)`` whose softmax is this."""
    return np.log(np.array(probabilities)).astype(np.float32)[None, None]


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ("softmax", 0.5),
        ("margin", 0.25),
        ("entropy", 0.25),  # H = log2 / 2 + 2 * log2 / 2 = 3/2 log 2, and log 4 = 2 log 2
        ("agreement", 0.5),
    ],
)
def test_by_hand(criterion: Criterion, expected: float) -> None:
    tiny = np.finfo(np.float32).tiny
    found, classes = scores(one_row(0.5, 0.25, 0.25, tiny), criterion)
    assert found.dtype == np.float32
    assert found[0, 0] == pytest.approx(expected, abs=1e-6)
    assert classes.tolist() == [[0]]


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [("softmax", 0.8), ("margin", 0.6), ("entropy", 1 - (0.8 * np.log2(1.25) + 0.2 * np.log2(5)))],
)
def test_a_temperature_by_hand(criterion: Criterion, expected: float) -> None:
    sharp = one_row(16 / 17, 1 / 17)  # odds of 16, which half the logit makes 4
    assert scores(sharp, criterion, [2.0])[0][0, 0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("temperatures", [None, (1.0, 0.3, 2.7)])
def test_as_by_the_definition(criterion: Criterion, classes: int, temperatures: tuple[float, ...] | None) -> None:
    rng = np.random.default_rng(classes)
    logits = (rng.normal(size=(3, 40, classes)) * rng.choice([0.01, 1, 5, 50], (3, 40, 1))).astype(np.float32)
    found, predicted = scores(logits, criterion, temperatures)
    expected = [
        [by_definition(row, criterion, temperature) for row in of_exit]
        for of_exit, temperature in zip(logits, temperatures or (1.0,) * 3, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_array_equal(predicted, logits.argmax(axis=2))
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.ptp(found) > 0.4  # sure rows and unsure ones


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_ends_of_the_scale(criterion: Criterion) -> None:
    logits = np.array([[[7, 7, 7, 7], [200, 0, 0, 0], [-1e4, -1e4, -1e4, 1e4]]], dtype=np.float32)
    found, classes = scores(logits, criterion)
    least = {"softmax": 0.25, "agreement": 0.25}.get(criterion, 0.0)
    np.testing.assert_allclose(found, [[least, 1, 1]], atol=1e-6)
    assert classes.tolist() == [[0, 0, 3]]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_has_no_score(criterion: Criterion, bad: float) -> None:
    logits = np.ones((2, 4, 3), dtype=np.float32)
    logits[1, 2, 1] = bad
    found, classes = scores(logits, criterion, (1.0, 2.0))
    assert np.argwhere(np.isnan(found)).tolist() == [[1, 2]]
    assert np.argwhere(classes == NO_PREDICTION).tolist() == [[1, 2]]
    assert np.isnan(agreeing(found, classes)[1, 2])


def test_agreement_by_hand() -> None:
    of_kept = np.array([[0.9, 0.8, 0.7, np.nan], [0.6, 0.5, np.nan, 0.4], [0.3, 0.2, 0.1, 0.5]], dtype=np.float32)
    classes = np.array([[1, 1, 2, NO_PREDICTION], [1, 2, NO_PREDICTION, 0], [2, 2, 2, 0]])
    expected = np.array([[0.9, 0.8, 0.7, np.nan], [0.6, 0, np.nan, 0], [0, 0.2, 0, 0.5]], dtype=np.float32)
    np.testing.assert_array_equal(agreeing(of_kept, classes), expected)
    assert of_kept[1, 1] == np.float32(0.5)  # what was given is as it was


@pytest.mark.parametrize("criterion", CRITERIA)
def test_rows_are_looked_at_in_chunks_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch, criterion: Criterion
) -> None:
    logits = np.random.default_rng(0).normal(size=(3, 25, 4)).astype(np.float32)
    whole = scores(logits, criterion, (0.5, 1.0, 2.0))
    monkeypatch.setattr(module, "CHUNK_VALUES", 4 * 7)
    for chunked, at_once in zip(scores(logits, criterion, (0.5, 1.0, 2.0)), whole, strict=True):
        np.testing.assert_array_equal(chunked, at_once)


def test_what_is_given_is_left_as_it_was() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    before = logits.copy()
    for criterion in CRITERIA:
        scores(logits, criterion)
        scores(logits, criterion, (0.5, 2.0))
    predicted_classes(logits)
    np.testing.assert_array_equal(logits, before)


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="logits are"):
        scores(np.zeros((2, 0, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="shorter"):
        scores(np.zeros((2, 1, 3), dtype=np.float32), "margin", (1.0,))


def test_classes_alone_are_those_of_the_scores_in_type_and_precision() -> None:
    """Logits in float64 are seen as onnxruntime sees them: in float32 these two are equal, and the first one wins."""
    logits = np.array([[[1.0, 1.0 + 1e-12], [0.0, 1.0]]])
    found = predicted_classes(logits)
    assert found.dtype == np.int64
    assert found.tolist() == scores(logits)[1].tolist() == [[0, 1]]
