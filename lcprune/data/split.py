"""The validation split: stratified by class, seeded, the same on every machine."""

import numpy as np
from numpy.typing import NDArray

_STREAM = 0x5B117  # keeps these draws apart from others that start from the same seed


def balanced_split(
    labels: NDArray[np.integer], val_size: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the images that stay in training and of those held out, both ascending.

    Images are held out of every class in proportion to its size, by the largest remainders, ties to the lower label, so
    that there are exactly `val_size` of them.

    Args:
        labels: Class of every image, ``(N,)``.
        val_size: Images to hold out, 0 to ``N``.
        seed: The same seed gives the same split.

    Returns:
        Train indices, ``(N - val_size,)``, and validation indices, ``(val_size,)``.

    Raises:
        ValueError: If there are fewer than `val_size` images.
    """
    total = len(labels)
    if not 0 <= val_size <= total:
        raise ValueError(f"cannot hold out {val_size} of {total} images")
    # Raw bits, because NumPy promises their stream for good and that of Generator.permutation only for one release.
    keys = np.random.PCG64([seed, _STREAM]).random_raw(total)
    shuffled_by_class = np.lexsort((keys, labels))
    _, sizes = np.unique(labels, return_counts=True)
    starts = np.cumsum(sizes) - sizes
    quotas, remainders = np.divmod(val_size * sizes, total)  # in whole numbers, as floats would break ties at random
    quotas[np.argsort(-remainders, kind="stable")[: val_size - quotas.sum()]] += 1
    held_out = np.zeros(total, dtype=bool)
    for start, quota in zip(starts, quotas, strict=True):
        held_out[shuffled_by_class[start : start + quota]] = True
    return np.flatnonzero(~held_out).astype(np.int64), np.flatnonzero(held_out).astype(np.int64)
