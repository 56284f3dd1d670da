"""The course of a training, from what it logged."""

from pathlib import Path

import numpy as np

from lcprune import runs
from lcprune.errors import RunError
from lcprune.exits import exit_names
from lcprune.pipeline.metrics import read_metrics
from lcprune.reporting.page.subject import Curves


def read_curves(run: Path) -> Curves:
    """Losses and accuracies of every exit over the steps so far (Figures 3 and 7), finished or not.

    Raises:
        RunError: If nothing is logged yet.
    """
    folder, recipe = runs.open_run(run)
    lines = read_metrics(folder / runs.METRICS)
    logged = [line for line in lines if "loss" in line]
    if not logged:
        raise RunError(f"{folder} has no losses in {runs.METRICS} yet", f"run this first: lcprune resume {folder}")
    evaluated = [line for line in lines if "accuracy_pct" in line]
    is_test = all("test_accuracy_pct" in line or line["split"] == "test" for line in evaluated)
    key = "test_accuracy_pct" if is_test else "accuracy_pct"
    accuracies = [line.get(key, line["accuracy_pct"]) for line in evaluated]
    n_exits = len(logged[0]["loss"])
    return Curves(
        exit_names=exit_names(n_exits, recipe.data.sizes),
        steps=np.array([line["step"] for line in logged], dtype=np.int64),
        losses=np.array([line["loss"] for line in logged], dtype=np.float64),
        eval_steps=np.array([line["step"] for line in evaluated], dtype=np.int64),
        accuracies_pct=np.array(accuracies, dtype=np.float64).reshape(len(evaluated), n_exits),
        split="test" if is_test else "val",
    )
