"""What a run logged: losses and accuracies over the steps."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Curves:
    """Losses and accuracies of every exit over the steps of a run (Figures 3 and 7 of the paper)."""

    exit_names: tuple[str, ...]
    """``sub-model 1`` .. ``main``, ``K`` of them."""
    steps: npt.NDArray[np.int64]
    """After which the losses were logged, ``(S,)``."""
    losses: npt.NDArray[np.float64]
    """Mean training losses since the line before, in nats, ``(S, K)``."""
    eval_steps: npt.NDArray[np.int64]
    """After which was evaluated, ``(E,)``; empty where there are no images to evaluate on."""
    accuracies_pct: npt.NDArray[np.float64]
    """``(E, K)``."""
    split: str
    """Of the accuracies: ``test`` where it was recorded, else ``val``."""
