"""Confidence scores of exits, from their logits: what is compared with the thresholds.

A score is in 0..1; an image takes an early exit whose score reaches the threshold. With p = softmax(logits / T), where
T is the temperature of the exit:

- ``softmax``: max p, the largest probability.
- ``margin``: the largest probability less the second largest.
- ``entropy``: 1 - H(p) / log(classes), H(p) = -sum p log p (Teerapittayanon et al. 2016, BranchyNet, arXiv:1709.01686).
- ``agreement``: max p where the class is that of the exit before, 0 where it is another; at the first exit max p. The
  exit before is the one that the cascade keeps, so this score is known only of a choice of exits (see `agreeing`).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lcprune_runtime.specs import Criterion

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]

NO_PREDICTION = -1
"""The class of a row whose logits are not finite: it equals no label, so the row counts as wrong."""

CHUNK_VALUES = 1 << 17
"""Logits looked at together, whatever the number of classes: 512 KiB of float32, which stay in a core's cache."""


def scores(
    logits: FloatArray, criterion: Criterion = "softmax", temperatures: Sequence[float] | None = None
) -> tuple[Scores, Classes]:
    """Score and class of every row at every exit, ``(K, N)`` each, in float32 as onnxruntime computes them.

    A row with a logit that is not finite has the score NaN and the class `NO_PREDICTION`.

    Args:
        logits: ``(K, N, C)``.
        criterion: ``agreement`` gives the score that every exit would have as the first one.
        temperatures: By which the logits of each exit are divided, ``(K,)``. None divides by nothing.

    Raises:
        ValueError: If the arguments do not fit each other.
    """
    check_logits(logits)
    temperatures = (1.0,) * len(logits) if temperatures is None else temperatures
    found = np.empty(logits.shape[:2], dtype=np.float32)
    classes = np.empty(logits.shape[:2], dtype=np.int64)
    for exit_index, (of_exit, temperature) in enumerate(zip(logits, temperatures, strict=True)):
        for rows in chunks(*of_exit.shape):
            values = of_exit[rows].astype(np.float32, copy=False)
            found[exit_index, rows], classes[exit_index, rows] = row_scores(values, criterion, temperature)
    return found, classes


def exit_scores(
    logits: FloatArray, criterion: Criterion = "softmax", temperatures: Sequence[float] | None = None
) -> tuple[Scores, Classes]:
    """`scores` in a cascade of these exits, so that ``agreement`` is with the exit before; none of no exits."""
    if not len(logits):
        return np.empty(logits.shape[:2], np.float32), np.empty(logits.shape[:2], np.int64)
    found, classes = scores(logits, criterion, temperatures)
    return agreeing(found, classes) if criterion == "agreement" else found, classes


def agreeing(of_kept: Scores, classes: Classes) -> Scores:
    """The scores of ``agreement``: 0 where an exit predicts another class than the one before; NaN stays NaN.

    Args:
        of_kept: Largest probabilities at the exits of a cascade, ``(K, N)``.
        classes: ``(K, N)``.
    """
    agreed = of_kept.copy()
    agreed[1:] *= classes[1:] == classes[:-1]
    return agreed


def predicted_classes(logits: FloatArray) -> Classes:
    """The classes of `scores`, ``(K, N)``, without the work that the scores are.

    Raises:
        ValueError: If ``logits`` is not ``(K, N, C)`` with something in it.
    """
    check_logits(logits)
    predictions = np.empty(logits.shape[:2], dtype=np.int64)
    for exit_index, of_exit in enumerate(logits):
        for rows in chunks(*of_exit.shape):
            predictions[exit_index, rows] = row_classes(of_exit[rows].astype(np.float32, copy=False))[0]
    return predictions


def check_logits(logits: FloatArray, labels: IntArray | None = None) -> None:
    """Refuse what is not ``(K, N, C)`` with something in it, or labels that are not ``(N,)``.

    Raises:
        ValueError: If they are not.
    """
    if logits.ndim != 3 or 0 in logits.shape:
        raise ValueError(f"logits are {logits.shape}, not (K, N, C) with K, N, C > 0")
    if labels is not None and labels.shape != logits.shape[1:2]:
        raise ValueError(f"labels are {labels.shape} but logits are {logits.shape}")


def chunks(rows: int, classes: int) -> Iterator[slice]:
    """Slices of ``(rows, classes)`` whose arrays stay in a core's cache."""
    step = max(1, CHUNK_VALUES // classes)
    return (slice(start, start + step) for start in range(0, rows, step))


def row_classes(logits: npt.NDArray[np.float32]) -> tuple[Classes, Scores]:
    """Class and largest logit of ``(n, C)``; the latter is of no use where there is no class."""
    classes = logits.argmax(axis=1)
    largest = logits[np.arange(len(logits)), classes]  # NaN where there is one
    if len(logits) and not (np.all(np.isfinite(largest)) and np.isfinite(logits.min())):  # rare: it may take its time
        classes[~np.all(np.isfinite(logits), axis=1)] = NO_PREDICTION
    return classes, largest


def row_scores(
    logits: npt.NDArray[np.float32], criterion: Criterion = "softmax", temperatures: float | Scores = 1.0
) -> tuple[Scores, Classes]:
    """Score and class of ``(n, C)``, each ``(n,)``; `temperatures` are of each row or of all."""
    classes, largest = row_classes(logits)  # before the division, which may round two logits to one
    divisors = np.asarray(temperatures, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # logits as far apart as float32 goes: -inf, whose exp is 0
        if np.any(divisors != 1):
            logits, largest = logits / divisors[..., None], largest / divisors
        below = logits - largest[:, None]
        found = _entropy_score(below) if criterion == "entropy" else _probability_score(below, classes, criterion)
    found[classes == NO_PREDICTION] = np.nan
    return found, classes


def _probability_score(below: npt.NDArray[np.float32], classes: Classes, criterion: Criterion) -> Scores:
    """Largest probability, or its lead, of logits less their largest, which are overwritten."""
    exponentials = np.exp(below, out=below)  # that of the largest is 1
    total = exponentials.sum(axis=1)
    if criterion != "margin":
        largest: Scores = np.float32(1) / total
        return largest
    exponentials[np.arange(len(classes)), classes] = 0
    lead: Scores = (np.float32(1) - exponentials.max(axis=1)) / total
    return lead


def _entropy_score(below: npt.NDArray[np.float32]) -> Scores:
    """1 - H(p) / log C of logits less their largest: H(p) = log(sum e) - sum(e * below) / sum e, e = exp(below)."""
    exponentials = np.exp(below)
    total = exponentials.sum(axis=1)
    entropy = np.log(total) - np.einsum("nc,nc->n", exponentials, below) / total
    certainty: Scores = np.abs(1 - entropy / np.float32(np.log(max(below.shape[1], 2))))  # rounding may go below 0
    return certainty
