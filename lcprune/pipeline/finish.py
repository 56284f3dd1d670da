"""What a training leaves when its steps are done: weights, predictions, accuracies."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcprune import runs
from lcprune.analysis.balanced import balanced_accuracies_pct
from lcprune.analysis.evaluate import accuracies_pct
from lcprune.data.sources import Dataset
from lcprune.pipeline import stored
from lcprune.training.checkpoint import TrainingState
from lcprune.training.loop import Plan


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    run: Path
    exit_names: tuple[str, ...]
    iterations: int
    seconds: float
    """Time spent in training, over all sessions."""
    val_accuracy_pct: tuple[float, ...]
    """Of every exit; empty without validation images."""
    test_accuracy_pct: tuple[float, ...]
    """Of every exit; empty without test images."""
    val_balanced_accuracy_pct: tuple[float, ...] = ()
    """Likewise, the mean over the classes: what accuracy would be if all had as many images."""
    test_balanced_accuracy_pct: tuple[float, ...] = ()
    bad_images: tuple[str, ...] = ()
    """Damaged files that were left out."""


def finish(folder: Path, plan: Plan, state: TrainingState, dataset: Dataset, notice: Callable[[str], None]) -> Trained:
    """Writes weights and predictions of a run whose steps are done; of several processes, the writer does.

    Args:
        folder: Of the run.
        plan: Of its training.
        state: What this process holds.
        dataset: Its images.
        notice: Is told what a person should know.
    """
    whole = plan.ranks.whole(state)
    if whole is not None:
        stored.write_weights(folder, whole.network)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        arrays[f"{name}_labels"] = split.labels
        arrays[f"{name}_logits"] = np.zeros((len(state.network.groups), 0, len(dataset.classes)), np.float32)
        if len(split.labels):
            channels_last = plan.recipe.train.channels_last
            logits = plan.ranks.predict_logits(state.network, split, plan.device, channels_last)
            arrays[f"{name}_logits"] = logits.numpy()
    if plan.ranks.is_writer:
        _write_predictions(folder, arrays, notice)
    accuracies, balanced = (
        {
            name: measure(arrays[f"{name}_logits"], arrays[f"{name}_labels"]) if len(arrays[f"{name}_labels"]) else ()
            for name in ("val", "test")
        }
        for measure in (accuracies_pct, balanced_accuracies_pct)
    )
    return Trained(
        run=folder,
        exit_names=state.network.exit_names,
        iterations=state.step,
        seconds=state.seconds,
        val_accuracy_pct=accuracies["val"],
        test_accuracy_pct=accuracies["test"],
        val_balanced_accuracy_pct=balanced["val"],
        test_balanced_accuracy_pct=balanced["test"],
    )


def _write_predictions(folder: Path, arrays: dict[str, np.ndarray[Any, Any]], notice: Callable[[str], None]) -> None:
    """Writes the logits; what was made of others, before a run was made longer, holds no more and is removed."""
    path = folder / runs.PREDICTIONS
    before = runs.sha256(path) if path.exists() else None
    runs.write_predictions(folder, arrays)
    if before is None or runs.sha256(path) == before:
        return
    decided = [name for name in (runs.SELECTION, runs.THRESHOLDS) if (folder / name).exists()]
    pages = [name for name in runs.recorded_files(folder) if name.endswith((".html", ".htm"))]
    runs.remove(folder, runs.PROFILE, *decided, *pages)  # the costs are measured again when they are asked for
    if decided:
        notice(f"{' and '.join(decided)} removed: the network has changed since; select and export again")
    if pages:
        notice(f"{' and '.join(pages)} removed: the network has changed since; report again")
