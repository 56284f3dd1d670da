"""Temperatures that make the probabilities of an exit mean what they say.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, section 4.2: the logits of an
exit are divided by the T with the smallest mean negative log-likelihood on images that the network was not trained on.
With b = 1 / T, z the logits, y the label and p = softmax(b z):

    L(b)   = mean( log sum exp(b z) - b z_y )
    L'(b)  = mean( E_p[z] - z_y )
    L''(b) = mean( Var_p[z] ) >= 0

so the minimum is where L' is 0, and Newton's method finds it, kept inside a bracket that shrinks with every step.
"""

import numpy as np
import numpy.typing as npt

from lcprune.analysis.criterion import check_logits, chunks

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]

BOUNDS = 0.05, 20.0
"""Smallest and largest temperature: an exit that is right, or wrong, about every image has no best one."""
LAST_STEP = 1e-4
"""Newton's error is about the square of its last step; both relative."""
FIRST_ROWS = 2000
"""Rows on which the search starts where there are more: the rest is then two or three steps away."""
MAX_STEPS = 60


def temperatures(logits: FloatArray, labels: IntArray) -> tuple[float, ...]:
    """The best temperature of every exit, exact to 1e-6; 1 where there is no row with finite logits.

    Args:
        logits: ``(K, N, C)``.
        labels: ``(N,)``.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    if labels.shape != logits.shape[1:2]:
        raise ValueError(f"labels are {labels.shape} but logits are {logits.shape}")
    if len(labels) == 0:
        return (1.0,) * len(logits)
    check_logits(logits)
    return tuple(_temperature(of_exit, labels) for of_exit in logits)


def _temperature(logits: FloatArray, labels: IntArray) -> float:
    start = 1.0
    if len(labels) > 2 * FIRST_ROWS:
        some = np.linspace(0, len(labels) - 1, FIRST_ROWS).astype(np.int64)
        start = _minimum(logits[some], labels[some], start)
    return 1 / _minimum(logits, labels, start)


def _minimum(logits: FloatArray, labels: IntArray, start: float) -> float:
    """The 1 / T with the smallest loss, by Newton's method, or by halves where that leaves the bracket."""
    low, high = 1 / BOUNDS[1], 1 / BOUNDS[0]
    inverse = start
    for _ in range(MAX_STEPS):
        slope, curvature = _derivatives(logits, labels, inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        if slope == 0:
            break
        newton = inverse - slope / curvature if curvature > 0 else np.inf * -slope
        step = newton if low < newton < high else (low * high) ** 0.5
        moved, inverse = abs(step - inverse) / inverse, step
        if moved < LAST_STEP:
            break
    return inverse


def _derivatives(logits: FloatArray, labels: IntArray, inverse: float) -> tuple[float, float]:
    """L' and L'' at 1 / T, up to a common factor; rows whose logits are not finite have no say."""
    slope = curvature = 0.0
    for rows in chunks(*logits.shape):
        values = logits[rows].astype(np.float32, copy=False)
        largest = values.max(axis=1, keepdims=True)
        own = np.take_along_axis(values, labels[rows, None], axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            below = values - largest  # (n, C)
            weights = np.exp(below * np.float32(inverse))
            total = weights.sum(axis=1)
            mean = np.einsum("nc,nc->n", weights, below) / total
            weights *= below
            variance = np.einsum("nc,nc->n", weights, below) / total - mean**2
            gap = mean - (own - largest)[:, 0]
        finite = np.isfinite(gap) & np.isfinite(variance)
        slope += float(gap[finite].sum(dtype=np.float64))
        curvature += float(variance[finite].sum(dtype=np.float64))
    return slope, curvature
