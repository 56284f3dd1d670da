"""Correlation distances by hand, and which samples they are taken of."""

import tracemalloc

import numpy as np
import pytest

from lcprune.analysis import representation
from lcprune.analysis.representation import dissimilarity, label_ordered


def test_by_hand() -> None:
    # Deviations from the mean: (-1, 0, 1), (1, 0, -1) and (-1, 2, -1): r = -1, 0 and 0.
    found = dissimilarity(np.array([[1, 2, 3], [7, 6, 5], [0, 3, 0]], dtype=np.float32))
    np.testing.assert_allclose(found, [[0, 2, 1], [2, 0, 1], [1, 1, 0]], atol=1e-7)
    assert found.dtype == np.float32


def test_scale_and_offset_of_a_sample_do_not_count() -> None:
    one = np.random.default_rng(0).normal(size=50)
    found = dissimilarity(np.stack([one, 3 * one + 1e6, -one]))
    np.testing.assert_allclose(found, [[0, 0, 2], [0, 0, 2], [2, 2, 0]], atol=1e-6)


def test_it_is_the_correlation_of_numpy_in_any_number_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    activations = np.random.default_rng(0).exponential(size=(30, 1000)).astype(np.float32) + 1000
    expected = 1 - np.corrcoef(activations.astype(np.float64))
    np.fill_diagonal(expected, 0)
    for columns in (1, 7, 999, 4096):
        monkeypatch.setattr(representation, "CHUNK_COLUMNS", columns)
        found = dissimilarity(activations)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
        np.testing.assert_array_equal(found, found.T)


def test_samples_of_any_scale_are_never_closer_than_the_same() -> None:
    one = np.random.default_rng(1).normal(size=40)
    found = dissimilarity(np.stack([scale * one for scale in (1e-3, 0.1, 0.3, 0.7, 1.1, 3.0, 7.0, 1e3)]))
    assert found.min() == 0
    assert found.max() < 1e-6


@pytest.mark.filterwarnings("error")
def test_a_sample_without_variance_is_like_itself_alone() -> None:
    activations = np.array([[0, 0, 0], [0.1, 0.1, 0.1], [1, 2, 4]], dtype=np.float32)
    np.testing.assert_array_equal(dissimilarity(activations), 1 - np.eye(3))


def test_an_activation_that_is_not_a_number_stays_visible() -> None:
    found = dissimilarity(np.array([[1, np.nan, 3], [1, 2, 3], [3, 2, 1]], dtype=np.float32))
    assert not np.isfinite(found[0, 1:]).any()
    assert found[1, 2] == 2


def test_memory_is_that_of_a_chunk() -> None:
    activations = np.ones((100, 100_000), dtype=np.float32)  # 40 MB
    tracemalloc.start()
    dissimilarity(activations)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < activations.nbytes / 4


def test_shapes_that_do_not_fit_are_refused() -> None:
    for shape in ((3,), (3, 0), (0, 3), (2, 3, 4)):
        with pytest.raises(ValueError, match="not \\(N, D\\)"):
            dissimilarity(np.zeros(shape, dtype=np.float32))


def test_the_first_images_of_each_class_in_the_order_of_labels() -> None:
    labels = np.array([2, 0, 1, 0, 2, 1, 0, 2, 1])
    assert label_ordered(labels, 6).tolist() == [1, 3, 2, 5, 0, 4]


def test_what_does_not_divide_goes_to_lower_labels_and_scarce_classes_are_made_up_for() -> None:
    assert label_ordered(np.array([2, 0, 1, 0, 2, 1, 0, 2, 1]), 4).tolist() == [1, 3, 2, 0]
    assert label_ordered(np.array([5, 9, 9, 9, 9]), 4).tolist() == [0, 1, 2, 3]
    assert label_ordered(np.array([5, 9, 9]), 400).tolist() == [0, 1, 2]
    assert label_ordered(np.empty(0, dtype=np.int64), 400).tolist() == []
