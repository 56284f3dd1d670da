"""Representational dissimilarity matrices (RDM) of layers.

Source: Kriegeskorte et al. 2008, as in Lee and Lee 2018, arXiv:1805.01128, Figure 5.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lcprune_runtime.criterion import FloatArray, IntArray

CHUNK_COLUMNS = 4096
"""Activations of each sample in one block: 13 MB of float64 for 400 samples."""


@dataclass(frozen=True)
class Dissimilarities:
    """Matrices of every layer of a network, for samples that stand in the order of their labels."""

    layers: tuple[str, ...]
    """Names, shallow first; the last is ``output``."""
    matrices: npt.NDArray[np.float32]
    """Correlation distances, ``(L, N, N)``: see `dissimilarity`."""
    labels: npt.NDArray[np.int64]
    """``(N,)``, ascending."""
    critic_after: tuple[int, ...]
    """Places in `layers` after which a critic sits, from 0."""
    split: str
    """Whose images the samples are: ``test``, or ``val`` or ``train`` where there are no others."""


def dissimilarity(activations: FloatArray) -> npt.NDArray[np.float32]:
    """1 - r for every pair of samples, r their Pearson correlation over the activations: ``(N, D)`` to ``(N, N)``.

    One pass over the activations, with sums in float64. They are taken of the distances to each sample's first
    activation: that changes no correlation, and sums of large numbers that nearly cancel do not arise. A sample whose
    activations are all the same is correlated with nothing: its distance is 0 to itself and 1 to every other.

    Raises:
        ValueError: If `activations` is not ``(N, D)`` with something in it.
    """
    if activations.ndim != 2 or 0 in activations.shape:
        raise ValueError(f"activations are {activations.shape}, not (N, D) with N, D > 0")
    n_samples, n_columns = activations.shape
    first = activations[:, :1].astype(np.float64)
    sums, products = np.zeros(n_samples), np.zeros((n_samples, n_samples))
    for start in range(0, n_columns, CHUNK_COLUMNS):
        values = activations[:, start : start + CHUNK_COLUMNS] - first
        sums += values.sum(axis=1)
        products += values @ values.T
    products -= np.outer(sums, sums) / n_columns
    scales = np.sqrt(np.diagonal(products).clip(min=0))
    constant = scales == 0
    scales[constant] = 1
    products[constant] = products[:, constant] = 0
    distances = (1 - products / np.outer(scales, scales)).clip(0, 2).astype(np.float32)
    np.fill_diagonal(distances, 0)
    return distances


def label_ordered(labels: IntArray, samples: int) -> npt.NDArray[np.int64]:
    """Places of the first images of each class, evenly over the classes, ordered by label and then by place.

    With 400 samples of 10 classes that is 40 of each. What does not divide goes to the lower labels, and where a class
    has too few, the others give more; where there are fewer images than `samples`, all are taken.

    Args:
        labels: Class of every image, ``(N,)``.
        samples: How many to take.

    Returns:
        ``(min(samples, N),)``.
    """
    by_label = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_label], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(starts, counts)  # in its class, of every image in `by_label`
    taken = np.sort(np.lexsort((labels[by_label], rank))[:samples])
    return by_label[taken].astype(np.int64)
