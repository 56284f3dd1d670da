"""Reliability diagrams, calibration error and accuracy per class, by hand."""

import math

import numpy as np
import pytest

from lcprune.analysis.evaluate import class_accuracies_pct
from lcprune.analysis.reliability import reliability


def test_bins_means_and_error_by_hand() -> None:
    confidences = np.array([0.1, 0.2, 0.6, 1.0], np.float32)
    correct = np.array([False, True, True, False])
    found = reliability(confidences, correct, bins=2)
    assert found.counts == (2, 2)
    assert found.confidence == pytest.approx((0.15, 0.8))
    assert found.accuracy == (0.5, 0.5)
    assert found.ece_pct == pytest.approx(100 * (2 * 0.35 + 2 * 0.3) / 4)


def test_an_empty_bin_is_not_known_and_counts_nothing() -> None:
    found = reliability(np.array([0.9, 0.9]), np.array([True, True]), bins=4)
    assert found.counts == (0, 0, 0, 2)
    assert math.isnan(found.accuracy[0])
    assert found.ece_pct == pytest.approx(10)


def test_rows_that_are_not_finite_have_no_say() -> None:
    found = reliability(np.array([np.nan, 0.75]), np.array([False, True]), bins=1)
    assert (found.counts, found.ece_pct) == ((1,), pytest.approx(25))
    nothing = reliability(np.array([np.nan]), np.array([False]), bins=1)
    assert nothing.counts == (0,)
    assert math.isnan(nothing.ece_pct)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="make no 2 bins"):
        reliability(np.zeros(3), np.zeros(2, dtype=bool), bins=2)


def test_accuracy_of_every_class_at_every_exit() -> None:
    correct = np.array([[True, False, True], [True, True, True]])
    found = class_accuracies_pct(correct, np.array([0, 0, 2]), 3)
    np.testing.assert_array_equal(found, [[50, np.nan, 100], [100, np.nan, 100]])


def test_bins_and_classes_without_rows_have_a_place_of_their_own() -> None:
    """Also at the end, as where no row is sure, or the validation images lack the last class."""
    found = reliability(np.array([0.05, 0.25, 0.28]), np.array([False, True, False]), bins=5)
    assert found.counts == (1, 2, 0, 0, 0)
    np.testing.assert_allclose(found.confidence, [0.05, 0.265, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(found.accuracy, [0.0, 0.5, np.nan, np.nan, np.nan])
    correct = np.array([[True, False, True], [False, False, False]])
    of_classes = class_accuracies_pct(correct, np.array([0, 0, 1]), classes=4)
    np.testing.assert_array_equal(of_classes, [[50, 100, np.nan, np.nan], [0, 0, np.nan, np.nan]])


def test_no_bins_are_a_slip() -> None:
    with pytest.raises(ValueError, match="make no 0 bins"):
        reliability(np.array([0.5]), np.array([True]), bins=0)
