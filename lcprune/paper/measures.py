"""The figures of a table, from a run's logits ``(K, N, C)`` and labels ``(N,)``."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.ensembles import ensemble_table, ensembles
from lcprune.analysis.evaluate import ProgressiveResult, accuracies_pct, sweep
from lcprune.analysis.representation import Dissimilarities

TOP = 5
_BY_PROBABILITY = "probabilities "


@dataclass(frozen=True)
class LossEvolution:
    """Loss of every exit on the same training images over the steps of a run (Figure 6)."""

    exit_names: tuple[str, ...]
    """``sub-model 1`` .. ``main``, ``K`` of them."""
    steps: npt.NDArray[np.int64]
    """``(S,)``; 0 is before the first step."""
    losses: npt.NDArray[np.float32]
    """Cross-entropy in eval mode, without label smoothing, in nats, ``(S, K, N)``."""
    labels: npt.NDArray[np.int64]
    """Of the images, ascending, ``(N,)``."""


def exit_names(count: int) -> tuple[str, ...]:
    """``sub-model 1`` .. ``main``."""
    return (*(f"sub-model {k}" for k in range(1, count)), "main")


def accuracy_pct(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], of: str) -> float:
    """What `Row.of` names: accuracy of an exit, of an ensemble, or ``top-5`` of main.

    Raises:
        ValueError: If there is no such exit or ensemble.
    """
    if of == "top-5":
        return _top_pct(logits[-1], labels)
    found = dict(zip(exit_names(len(logits)), accuracies_pct(logits, labels), strict=True))
    if of.startswith(_BY_PROBABILITY):
        table = ensemble_table(None, None, logits, labels)
        found = {f"{_BY_PROBABILITY}{one.members}": one.accuracy_pct for one in table if one.kind == "probabilities"}
    elif "+" in of:
        found = ensembles(logits, labels)
    if of not in found:
        raise ValueError(f"there is no {of} among {list(found)}")
    return found[of]


def early_exits(
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    of: str,
    cost: CascadeCost,
    paper_flops: Sequence[int],
) -> dict[str, Any]:
    """Progressive inference with one threshold for all exits (Table 6): the fields of `ProgressiveResult`.

    ``paper_flop`` is added: the mean of 2 x weights of the sub-model at whose exit an image leaves.

    Args:
        logits: Of all exits.
        labels: Of the images.
        of: Threshold of the largest softmax probability, or ``main``: without early exits and their critics.
        cost: MACs of the parts of the network.
        paper_flops: 2 x weights of every sub-model, shallow first.
    """
    if of == "main":
        shares = (*(0.0,) * (len(logits) - 1), 1.0)
        found = ProgressiveResult((), accuracy_pct(logits, labels, "main"), cost.main_macs, 1.0, shares)
    else:
        (found,) = sweep(logits, labels, cost.exit_macs(), cost.main_macs, [float(of)])
    flop = sum(share * of_exit for share, of_exit in zip(found.exit_fractions, paper_flops, strict=True))
    return asdict(found) | {"paper_flop": flop}


def contrasts(found: Dissimilarities) -> list[float]:
    """Of every layer: mean dissimilarity of images of different classes, less that within a class (Figure 5)."""
    alike = found.labels[:, None] == found.labels
    itself = np.eye(len(found.labels), dtype=bool)
    return [float(matrix[~alike].mean() - matrix[alike & ~itself].mean()) for matrix in found.matrices]


def correlations(found: LossEvolution) -> npt.NDArray[np.float64]:
    """Pearson correlation of the images' losses at every exit with those at main, at every step, ``(S, K)``.

    0 where all images have the same loss.
    """
    losses = found.losses.astype(np.float64)
    losses -= losses.mean(axis=2, keepdims=True)
    products = (losses * losses[:, -1:]).mean(axis=2)  # (S, K)
    scales = losses.std(axis=2) * losses[:, -1:].std(axis=2)
    found_at: npt.NDArray[np.float64] = np.divide(products, scales, out=np.zeros_like(products), where=scales > 0)
    return found_at


def _top_pct(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """How often the label is among the five classes with the largest logits, in percent."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]  # (N, 5)
    return 100 * float(np.mean((best == labels[:, None]).any(axis=1)))
