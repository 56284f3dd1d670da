"""Three ways to make one answer of several exits, on stored logits.

- ``logits``: the exits' outputs are summed (Lee and Lee 2018, arXiv:1805.01128, Figure 4b).
- ``probabilities``: their softmax probabilities are summed, so that an exit that is not sure says less.
- ``weighted``: a weighted sum of the outputs, its weights found on the validation split. Log-probabilities instead of
  logits would give the same: they differ by one number per row and exit, which the softmax of the sum drops.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from lcprune.analysis.criterion import check_logits, chunks, row_classes
from lcprune.analysis.evaluate import FloatArray, IntArray, correct_rows, ensemble_members, ensembles

Kind = Literal["logits", "probabilities", "weighted"]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EnsembleResult:
    """One way to combine one set of exits, and what it is right about."""

    members: str
    """Such as ``1+2+3+main``."""
    kind: Kind
    accuracy_pct: float
    weights: tuple[float, ...]
    """Of every member, shallow first; they add up to 1."""


def ensemble_table(
    val_logits: FloatArray | None, val_labels: IntArray | None, logits: FloatArray, labels: IntArray
) -> tuple[EnsembleResult, ...]:
    """The three kinds for all sub-models and for all exits; empty where there is one exit alone.

    Args:
        val_logits: Of the validation split, ``(K, M, C)``, which alone decides the weights. Without any rows, or
            None, ``weighted`` is left out.
        val_labels: ``(M,)``.
        logits: Of the rows that the accuracies are of, ``(K, N, C)``.
        labels: ``(N,)``.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    check_logits(logits)
    summed = ensembles(logits, labels)
    results = []
    for members, size in ensemble_members(len(logits)).items():
        equal = (1 / size,) * size
        results.append(EnsembleResult(members, "logits", summed[members], equal))
        results.append(EnsembleResult(members, "probabilities", _probabilities_pct(logits[:size], labels), equal))
        if val_logits is not None and val_labels is not None and len(val_labels):
            weights = fit_weights(val_logits[:size], val_labels)
            results.append(EnsembleResult(members, "weighted", weighted_pct(logits[:size], labels, weights), weights))
    return tuple(results)


def fit_weights(logits: FloatArray, labels: IntArray) -> tuple[float, ...]:
    """Weights of the exits, none negative, whose weighted sum of logits has the lowest mean cross-entropy.

    The problem is convex and the search starts from equal weights, so the same logits give the same weights. They are
    scaled to add up to 1 at the end, which changes no class. Rows with a logit that is not finite are left out; where
    nothing is left, or no exit helps, the weights are equal.

    Args:
        logits: ``(K, N, C)``.
        labels: ``(N,)``.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    check_logits(logits)
    if labels.shape != logits.shape[1:2]:
        raise ValueError(f"labels are {labels.shape} but logits are {logits.shape}")
    equal = np.full(len(logits), 1 / len(logits))
    found = minimize(
        _cross_entropy, equal, args=(logits, labels), jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(logits)
    ).x
    total = found.sum()
    return tuple((found / total if total > 0 else equal).tolist())


def weighted_pct(logits: FloatArray, labels: IntArray, weights: Sequence[float]) -> float:
    """Accuracy in percent of the weighted sum of ``(K, N, C)`` logits, for ``(K,)`` weights."""
    of_exits = np.asarray(weights, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # such a row has no prediction
        sums = (np.tensordot(of_exits, logits[:, rows].astype(np.float32), 1) for rows in chunks(*logits.shape[1:]))
        return _accuracy_pct(sums, labels)


def _probabilities_pct(logits: FloatArray, labels: IntArray) -> float:
    sums = (_summed_probabilities(logits[:, rows]) for rows in chunks(*logits.shape[1:]))
    return _accuracy_pct(sums, labels)


def _summed_probabilities(logits: FloatArray) -> npt.NDArray[np.float32]:
    """Softmax probabilities summed over the exits: ``(K, n, C)`` to ``(n, C)``; NaN where a logit is not finite."""
    summed = np.zeros(logits.shape[1:], dtype=np.float32)
    for of_exit in logits:
        with np.errstate(over="ignore", invalid="ignore"):
            exponentials = np.exp(of_exit.astype(np.float32) - of_exit.max(axis=1, keepdims=True))
            summed += exponentials / exponentials.sum(axis=1, keepdims=True)
    summed[~np.isfinite(logits).all(axis=(0, 2))] = np.nan
    return summed


def _accuracy_pct(sums: Iterator[npt.NDArray[np.float32]], labels: IntArray) -> float:
    """Accuracy of what the pieces ``(n, C)`` say, which come in the order of the labels."""
    classes = np.concatenate([row_classes(summed)[0] for summed in sums])
    return 100 * int(np.count_nonzero(correct_rows(classes, labels))) / len(labels)


def _cross_entropy(weights: Doubles, logits: FloatArray, labels: IntArray) -> tuple[float, Doubles]:
    """Mean cross-entropy of the weighted sum in nats, and its gradient by the weights, ``(K,)``."""
    total, gradient, used = 0.0, np.zeros(len(weights)), 0
    for rows in chunks(*logits.shape[1:]):
        finite = np.isfinite(logits[:, rows]).all(axis=(0, 2))
        values = logits[:, rows][:, finite].astype(np.float64)  # (K, n, C)
        own = values[:, np.arange(values.shape[1]), labels[rows][finite]]  # (K, n)
        summed = np.tensordot(weights, values, 1)
        summed -= summed.max(axis=1, keepdims=True)
        own_summed = summed[np.arange(len(summed)), labels[rows][finite]]
        probabilities = np.exp(summed)
        sums = probabilities.sum(axis=1, keepdims=True)
        probabilities /= sums
        total += float(np.sum(np.log(sums[:, 0]) - own_summed))
        gradient += np.einsum("nc,knc->k", probabilities, values) - own.sum(axis=1)
        used += len(summed)
    return total / max(used, 1), gradient / max(used, 1)
