"""The content of the page: plain values that the pipeline collects from a run folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lcprune.analysis.cost import CascadeCost, ExitCost
from lcprune.analysis.representation import Dissimilarities
from lcprune.recipe import Recipe
from lcprune.specs import Criterion
from lcprune_runtime.metadata import ModelInfo

SPLITS = {"test": "test", "val": "validation", "train": "training"}
"""What the page calls them."""

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Labelled:
    """Logits of every exit on a split, and the labels."""

    logits: FloatArray
    """``(K, N, C)``."""
    labels: IntArray
    """``(N,)``."""


@dataclass(frozen=True)
class Setting:
    """Early exits with thresholds, as an export or the calibration chose them."""

    title: str
    source: str
    """Where the thresholds come from, in a sentence."""
    exits: tuple[int, ...]
    """``exit_index`` of the kept early exits, ascending."""
    thresholds: tuple[float, ...]
    criterion: Criterion = "softmax"
    temperatures: tuple[float, ...] | None = None
    """One per exit of the network, ``(K,)``; None leaves the logits as they are."""


@dataclass(frozen=True)
class Curves:
    """Losses and accuracies of every exit over the steps of a run (Figures 3 and 7 of the paper)."""

    exit_names: tuple[str, ...]
    """``sub-model 1`` .. ``main``, ``K`` of them."""
    steps: npt.NDArray[np.int64]
    """After which the losses were logged, ``(S,)``."""
    losses: npt.NDArray[np.float64]
    """Mean training losses since the step before, in nats, ``(S, K)``."""
    eval_steps: npt.NDArray[np.int64]
    """After which was evaluated, ``(E,)``; empty where there are no images to evaluate on."""
    accuracies_pct: npt.NDArray[np.float64]
    """``(E, K)``."""
    split: str
    """Of the accuracies: ``test`` where it was recorded, else ``val``."""

    def averaged(self, most: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """`steps` and `losses` as means of neighbours, so that at most `most` points are left."""
        pieces = np.array_split(np.arange(len(self.steps)), min(most, len(self.steps)))
        return (
            np.array([self.steps[piece].mean() for piece in pieces]),
            np.array([self.losses[piece].mean(axis=0) for piece in pieces]),
        )


@dataclass(frozen=True)
class Subject:
    """A finished run."""

    recipe: Recipe
    recipe_text: str
    """The resolved recipe, as YAML."""
    environment: Mapping[str, Any]
    curves: Curves | None
    """None where nothing was logged."""
    seconds: float
    """Spent in training steps; 0 where nothing was logged."""
    exits: tuple[ExitCost, ...]
    cost: CascadeCost
    classes: tuple[str, ...]
    split: Literal["test", "val"]
    """Which one the figures are of."""
    shown: Labelled
    """That split."""
    held_out: Labelled | None
    """The validation split; None where there is none."""
    settings: tuple[Setting, ...]
    """The first one is the one that the page illustrates."""
    selected: str | None
    """Name of the sub-model that ``lcprune select`` chose."""
    images: npt.NDArray[np.uint8] | None
    """Of `shown`, ``(N, C, H, W)``; None where they are not there."""
    images_absent: str
    """Why there are none."""
    inside: Dissimilarities | None
    inside_absent: str
    """Why there are no dissimilarities."""
    commands: tuple[tuple[str, str], ...]
    """The history of the run: titles and command lines."""
    exported: tuple[tuple[Path, ModelInfo], ...]
    """ONNX files and their metadata, newest first."""


@dataclass(frozen=True)
class MacsUnit:
    """The unit in which a page gives multiply-adds."""

    divisor: float
    name: str
    """``M`` for millions."""


def macs_unit(main_macs: int) -> MacsUnit:
    """A unit in which main has a number of one to three digits."""
    for divisor, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if main_macs >= divisor:
            return MacsUnit(divisor, name)
    return MacsUnit(1.0, "")
