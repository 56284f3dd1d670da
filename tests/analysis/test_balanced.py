"""Accuracy where classes are of unequal size."""

import numpy as np
import pytest

from lcprune.analysis.evaluate import balanced_accuracies_pct


def logits_of(*predicted: list[int], classes: int = 3) -> np.ndarray:
    """Logits ``(K, N, C)`` of exits that say these classes."""
    return np.stack([np.eye(classes, dtype=np.float32)[of_exit] for of_exit in predicted])


def test_every_class_counts_as_much_as_another() -> None:
    labels = np.array([0, 0, 0, 0, 1, 2])
    always_0, half_of_0 = [0, 0, 0, 0, 0, 0], [0, 0, 1, 2, 1, 0]
    found = balanced_accuracies_pct(logits_of(always_0, half_of_0), labels)
    assert found == pytest.approx((100 * (1 + 0 + 0) / 3, 100 * (0.5 + 1 + 0) / 3))


def test_a_class_without_images_does_not_count() -> None:
    """As in validation images of one's own that lack a class: in the middle, or at the end."""
    assert balanced_accuracies_pct(logits_of([0, 0, 2]), np.array([0, 0, 2])) == (100.0,)
    assert balanced_accuracies_pct(logits_of([0, 2, 1]), np.array([0, 0, 1])) == (75.0,)


def test_no_images_are_a_slip() -> None:
    with pytest.raises(ValueError, match="^there are no labels$"):
        balanced_accuracies_pct(np.zeros((2, 0, 3), np.float32), np.empty(0, np.int64))
    with pytest.raises(ValueError, match="labels"):
        balanced_accuracies_pct(logits_of([0, 1]), np.array([0]))
