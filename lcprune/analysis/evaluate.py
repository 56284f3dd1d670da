"""Accuracy and cost of exits and of progressive inference, as arithmetic on stored logits.

Logits are ``(K, N, C)`` float32, shallow exits first and ``main`` last; labels are ``(N,)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lcprune_runtime.criterion import BoolArray, FloatArray, IntArray, predicted_classes, scores

SWEEP_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Default thresholds of `sweep`, each for all early exits."""


@dataclass(frozen=True)
class ProgressiveResult:
    """Progressive inference on a data set at fixed thresholds."""

    thresholds: tuple[float, ...]
    """One per early exit."""
    accuracy_pct: float
    mean_macs: float
    """Mean over the rows, critics included."""
    macs_ratio: float
    """``mean_macs`` to those of main without critics."""
    exit_fractions: tuple[float, ...]
    """Share of the rows that take each early exit, and last of those that reach main."""

    def as_json(self) -> dict[str, Any]:
        """As ``lcprune evaluate --json`` prints it, where one threshold is that of all early exits."""
        fields = {**vars(self), "exit_fractions": list(self.exit_fractions)}
        return {"threshold": fields.pop("thresholds")[0], **fields}


def exit_rows(exits: Sequence[tuple[str, int]], logits: FloatArray, labels: IntArray) -> list[dict[str, Any]]:
    """Accuracies of every exit, as ``lcprune evaluate --json`` prints them.

    Args:
        exits: Name and ``exit_index`` of every exit, ``(K,)``.
        logits: ``(K, N, C)``.
        labels: ``(N,)``.
    """
    found = zip(exits, accuracies_pct(logits, labels), balanced_accuracies_pct(logits, labels), strict=True)
    return [
        {"name": name, "exit_index": index, "accuracy_pct": accuracy, "balanced_accuracy_pct": balanced}
        for (name, index), accuracy, balanced in found
    ]


def accuracies_pct(logits: FloatArray, labels: IntArray) -> tuple[float, ...]:
    """Accuracy of every exit, shallow first.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    correct = correct_rows(predicted_classes(logits), labels)
    return tuple(accuracy_pct(of_exit) for of_exit in correct)


def balanced_accuracies_pct(logits: FloatArray, labels: IntArray) -> tuple[float, ...]:
    """Balanced accuracy of every exit, shallow first: the mean over the classes that have images.

    Raises:
        ValueError: If there are no labels, or the shapes do not fit each other.
    """
    if not len(labels):
        raise ValueError("there are no labels")
    of_classes = class_accuracies_pct(correct_rows(predicted_classes(logits), labels), labels, logits.shape[2])
    return tuple(np.nanmean(of_classes, axis=1).tolist())


def class_accuracies_pct(correct: BoolArray, labels: IntArray, classes: int) -> npt.NDArray[np.float64]:
    """Accuracy of every exit on the rows of every class, ``(K, classes)``; NaN where a class has no rows.

    Args:
        correct: ``(K, N)``.
        labels: ``(N,)``, from 0 to ``classes - 1``.
        classes: How many there are.
    """
    rows = np.bincount(labels, minlength=classes)
    right = np.stack([np.bincount(labels[of_exit], minlength=classes) for of_exit in correct])
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracies: npt.NDArray[np.float64] = 100 * right / rows
    return accuracies


def correct_rows(predictions: IntArray, labels: IntArray) -> BoolArray:
    """Whether each prediction ``(K, N)`` is the label ``(N,)``.

    Raises:
        ValueError: If the shapes do not fit each other (numpy would broadcast them).
    """
    if labels.shape != predictions.shape[-1:]:
        raise ValueError(f"labels are {labels.shape} but predictions are {predictions.shape}")
    return np.equal(predictions, labels)


def accuracy_pct(correct: BoolArray) -> float:
    """How many of the rows are correct, in percent."""
    return 100 * int(np.count_nonzero(correct)) / correct.size


def drop_pct(reference_correct: BoolArray, candidate_correct: BoolArray) -> float:
    """Points that the candidate ``(N,)`` is below the reference ``(N,)``; from counts, rounded to 6 digits."""
    lost = int(np.count_nonzero(reference_correct)) - int(np.count_nonzero(candidate_correct))
    return round(100 * lost / reference_correct.size, 6)


def drop_se_pct(reference_correct: BoolArray, candidate_correct: BoolArray) -> float:
    """Standard error of `drop_pct`, over the same images."""
    lost = reference_correct.astype(np.float64) - candidate_correct
    return 100 * float(np.std(lost)) / float(np.sqrt(lost.size))


def within(value: float, limit: float) -> bool:
    """Whether a budget is met, to 6 digits: met exactly is met, though in floats 50.02 - 49.72 is over 0.3."""
    return round(value, 6) <= round(limit, 6)


def leave_at(confidences: FloatArray, thresholds: Sequence[float]) -> npt.NDArray[np.int64]:
    """Exit of each row, ``(N,)``: the first early exit whose score meets its threshold, else the last exit.

    Args:
        confidences: ``(K, N)`` or ``(K - 1, N)``, in [0, 1]. NaN meets no threshold.
        thresholds: One per early exit, ``(K - 1,)``. Compared in float32, as in the exported graph.

    Raises:
        ValueError: If there is no threshold for every early exit.
    """
    if len(confidences) - len(thresholds) not in (0, 1):
        raise ValueError(f"{len(thresholds)} thresholds do not go with confidences {confidences.shape}")
    limits = np.asarray(thresholds, dtype=np.float32)[:, None]
    early = confidences[: len(thresholds)].astype(np.float32, copy=False) >= limits  # (K - 1, N)
    last = np.ones((1, confidences.shape[1]), dtype=bool)
    left_at: npt.NDArray[np.int64] = np.concatenate([early, last]).argmax(axis=0)
    return left_at


def sweep(
    logits: FloatArray,
    labels: IntArray,
    exit_macs: Sequence[int],
    main_macs: int,
    thresholds: Sequence[float | Sequence[float]] = SWEEP_THRESHOLDS,
) -> tuple[ProgressiveResult, ...]:
    """Progressive inference by the largest softmax probability, at each of the thresholds.

    Args:
        logits: Of the exits in the cascade, main last, ``(K, N, C)``.
        labels: ``(N,)``.
        exit_macs: Of a row that takes each exit, ``(K,)``: `CascadeCost.exit_macs`.
        main_macs: Of main without critics, which ``macs_ratio`` is measured by.
        thresholds: Each is one for all early exits, or one per early exit, ``(K - 1,)``.
    """
    confidences, classes = scores(logits)
    correct, early = correct_rows(classes, labels), len(logits) - 1
    each = ([limits] * early if isinstance(limits, int | float) else limits for limits in thresholds)
    return tuple(cascade(confidences, correct, limits, exit_macs, main_macs) for limits in each)


def cascade(
    confidences: FloatArray,
    correct: BoolArray,
    thresholds: Sequence[float],
    exit_macs: Sequence[int],
    main_macs: int,
) -> ProgressiveResult:
    """Progressive inference, from scores and correctness of every exit, ``(K, N)`` each.

    Raises:
        ValueError: If the exits of the arguments do not agree in number.
    """
    if not len(confidences) == len(correct) == len(exit_macs) == len(thresholds) + 1:
        raise ValueError(
            f"{len(confidences)} confidences, {len(correct)} correct, {len(exit_macs)} exit_macs and "
            f"{len(thresholds)} thresholds are not of one cascade"
        )
    left_at = leave_at(confidences, thresholds)
    counts = np.bincount(left_at, minlength=len(exit_macs))
    mean_macs = float(counts @ np.asarray(exit_macs, dtype=np.float64)) / len(left_at)
    return ProgressiveResult(
        thresholds=tuple(float(threshold) for threshold in thresholds),
        accuracy_pct=accuracy_pct(np.take_along_axis(correct, left_at[None], axis=0)),
        mean_macs=mean_macs,
        macs_ratio=mean_macs / main_macs,
        exit_fractions=tuple((counts / len(left_at)).tolist()),
    )
