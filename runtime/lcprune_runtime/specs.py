"""What an exported model may be: plain names, without any import that takes time."""

from typing import Literal, get_args

Criterion = Literal["softmax", "margin", "entropy", "agreement"]
"""What is compared with the thresholds of a progressive model: `lcprune_runtime.criterion`."""
Layout = Literal["nested", "shared", "flat"]
"""How a progressive model goes on with the images that stay: in branches, or in one graph with fewer rows.

``shared`` is nested with the weights that several branches have in common outside of them: smaller and slower.
"""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
CRITERIA: dict[Criterion, str] = {
    "softmax": "largest probability",
    "margin": "margin between the two largest probabilities",
    "entropy": "certainty (1 - entropy / log classes)",
    "agreement": "largest probability, where the exit before it names the same class,",
}
