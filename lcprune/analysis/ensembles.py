"""Three kinds of ensembles of exits, on stored logits.

- ``logits``: the exits' outputs are summed (Lee and Lee 2018, arXiv:1805.01128, Figure 4b).
- ``probabilities``: their softmax probabilities are summed, so that an exit that is not confident counts less.
- ``weighted``: a weighted sum of the outputs, its weights found on the validation split. Log-probabilities instead of
  logits would give the same: they differ by one number per row and exit, which the softmax of the sum drops.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from lcprune.exits import MAIN, exit_label
from lcprune_runtime.criterion import FloatArray, IntArray, check_logits, chunks, row_classes

Kind = Literal["logits", "probabilities", "weighted"]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EnsembleResult:
    """The accuracy of one kind of ensemble of one set of exits."""

    members: str
    """Such as ``1+2+3+main``."""
    kind: Kind
    accuracy_pct: float
    weights: tuple[float, ...]
    """Of every member, shallow first; they add up to 1."""


def ensembles(logits: FloatArray, labels: IntArray, names: Sequence[str] = ()) -> dict[str, float]:
    """Accuracy in percent of summed outputs, by the names of the members: "1+2", "1+2+main".

    Args:
        logits: ``(K, N, C)``.
        labels: ``(N,)``.
        names: Of the exits; empty for ``sub-model 1`` .. ``main``.
    """
    members = _members(len(logits), names)
    return {name: ensemble_pct(logits[:size], labels, (1.0,) * size) for name, size in members.items()}


def _members(n_exits: int, names: Sequence[str] = ()) -> dict[str, int]:
    """Names of the sets of exits that are combined, and how many of the first exits each has; one alone is none."""
    labels = [exit_label(name) for name in names] or [*map(str, range(1, n_exits)), MAIN]
    return {"+".join(labels[:size]): size for size in (n_exits - 1, n_exits) if size > 1}


def ensemble_table(
    val_logits: FloatArray | None,
    val_labels: IntArray | None,
    logits: FloatArray,
    labels: IntArray,
    names: Sequence[str] = (),
) -> tuple[EnsembleResult, ...]:
    """The three kinds for all sub-models and for all exits; empty where there is one exit alone.

    Args:
        val_logits: Of the validation split, ``(K, M, C)``, which alone decides the weights. Without any rows, or
            None, ``weighted`` is left out.
        val_labels: ``(M,)``.
        logits: Of the rows that the accuracies are of, ``(K, N, C)``.
        labels: ``(N,)``.
        names: See `ensembles`.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    check_logits(logits, labels)
    results = []
    for members, size in _members(len(logits), names).items():
        kinds: dict[Kind, tuple[float, ...]] = dict.fromkeys(("logits", "probabilities"), (1 / size,) * size)
        if val_logits is not None and val_labels is not None and len(val_labels):
            kinds["weighted"] = fit_weights(val_logits[:size], val_labels)
        for kind, weights in kinds.items():
            accuracy_pct = ensemble_pct(logits[:size], labels, weights, probabilities=kind == "probabilities")
            results.append(EnsembleResult(members, kind, accuracy_pct, weights))
    return tuple(results)


def ensemble_pct(
    logits: FloatArray, labels: IntArray, weights: Sequence[float], *, probabilities: bool = False
) -> float:
    """Accuracy in percent of the weighted sum of ``(K, N, C)`` logits, or softmax probabilities, by ``(K,)`` weights.

    A row with a logit that is not finite counts as wrong.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    check_logits(logits, labels)
    right = 0
    for rows in chunks(*logits.shape[1:]):
        summed = np.zeros_like(logits[0, rows], dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for weight, of_exit in zip(weights, logits[:, rows], strict=True):
                values = of_exit.astype(np.float32, copy=False)
                if probabilities:
                    values = softmax(np.where(np.isfinite(values), values, np.float32(np.nan)), axis=1)
                summed += np.float32(weight) * values
        right += int(np.count_nonzero(row_classes(summed)[0] == labels[rows]))
    return 100 * right / len(labels)


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
    check_logits(logits, labels)
    equal = np.full(len(logits), 1 / len(logits))
    found = minimize(
        _cross_entropy, equal, args=(logits, labels), jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(logits)
    ).x
    total = found.sum()
    return tuple((found / total if total > 0 else equal).tolist())


def _cross_entropy(weights: Doubles, logits: FloatArray, labels: IntArray) -> tuple[float, Doubles]:
    """Mean cross-entropy of the weighted sum in nats, and its gradient by the weights, ``(K,)``."""
    total, gradient, used = 0.0, np.zeros(len(weights)), 0
    for rows in chunks(*logits.shape[1:]):
        finite = np.isfinite(logits[:, rows]).all(axis=(0, 2))
        values = logits[:, rows][:, finite].astype(np.float64)  # (K, n, C)
        own = values[:, np.arange(values.shape[1]), labels[rows][finite]]  # (K, n)
        summed = np.tensordot(weights, values, 1)  # (n, C)
        logarithms = log_softmax(summed, axis=1)
        total -= float(logarithms[np.arange(len(summed)), labels[rows][finite]].sum())
        gradient += np.einsum("nc,knc->k", np.exp(logarithms), values) - own.sum(axis=1)
        used += len(summed)
    return total / max(used, 1), gradient / max(used, 1)
