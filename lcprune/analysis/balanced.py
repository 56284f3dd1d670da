"""Accuracy where classes are of unequal size: arithmetic on stored logits."""

import numpy as np

from lcprune.analysis.criterion import predicted_classes
from lcprune.analysis.evaluate import FloatArray, IntArray, correct_rows


def balanced_accuracies_pct(logits: FloatArray, labels: IntArray) -> tuple[float, ...]:
    """Mean over the classes of the share of their images that every exit gets right, shallow first.

    Classes without images do not count. It is the accuracy where all classes have as many images.

    Args:
        logits: ``(K, N, C)``.
        labels: ``(N,)``, at least one.

    Raises:
        ValueError: If there are no labels, or the shapes do not fit each other.
    """
    if not len(labels):
        raise ValueError("there are no labels")
    correct = correct_rows(predicted_classes(logits), labels)
    counts = np.bincount(labels)
    present = counts > 0
    recalls = [np.bincount(labels, of_exit, len(counts))[present] / counts[present] for of_exit in correct]
    return tuple(100 * float(of_exit.mean()) for of_exit in recalls)
