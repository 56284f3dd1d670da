"""Temperature scaling: the temperatures that calibrate the probabilities of every exit.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, section 4.2: the logits of an
exit are divided by the T with the smallest mean negative log-likelihood on images that the network was not trained on.
With b = 1 / T, z the logits, y the label and p = softmax(b z):

    L(b)  = mean( log sum exp(b z) - b z_y )
    L'(b) = mean( E_p[z] - z_y )

so the minimum is where L', which rises with b, is 0.
"""

import math

import numpy as np
from scipy.optimize import brentq

from lcprune_runtime.criterion import FloatArray, IntArray, check_logits, chunks

BOUNDS = 0.05, 20.0
"""Smallest and largest temperature: an exit that is right, or wrong, about every image has no best one."""


def temperatures(logits: FloatArray, labels: IntArray) -> tuple[float, ...]:
    """The best temperature of every exit, exact to 1e-6; 1 where there is no row with finite logits.

    Args:
        logits: ``(K, N, C)``.
        labels: ``(N,)``.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    if logits.shape[1:2] == labels.shape == (0,):
        return (1.0,) * len(logits)
    check_logits(logits, labels)
    return tuple(_temperature(of_exit, labels) for of_exit in logits)


def _temperature(logits: FloatArray, labels: IntArray) -> float:
    def slope(log_temperature: float) -> float:
        return _slope(logits, labels, math.exp(-log_temperature))

    at_1 = slope(0.0)
    if at_1 == 0:
        return 1.0
    bound = BOUNDS[at_1 > 0]
    if slope(math.log(bound)) * at_1 >= 0:
        return bound
    return math.exp(brentq(slope, 0.0, math.log(bound), xtol=1e-8))


def _slope(logits: FloatArray, labels: IntArray, inverse: float) -> float:
    """L' at 1 / T, up to a factor; rows whose logits are not finite are left out."""
    slope = 0.0
    for rows in chunks(*logits.shape):
        values = logits[rows].astype(np.float32, copy=False)
        largest = values.max(axis=1, keepdims=True)
        own = np.take_along_axis(values, labels[rows, None], axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            below = values - largest  # (n, C)
            weights = np.exp(below * np.float32(inverse))
            gap = np.einsum("nc,nc->n", weights, below) / weights.sum(axis=1) - (own - largest)[:, 0]
        slope += float(gap[np.isfinite(gap)].sum(dtype=np.float64))
    return slope
