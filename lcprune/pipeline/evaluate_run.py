"""Accuracy of a run's exits, ensembles and progressive inference: arithmetic on its stored predictions."""

from pathlib import Path
from typing import Any

from lcprune import runs
from lcprune.analysis import evaluate as analysis
from lcprune.errors import RunError
from lcprune.pipeline.profile import costs_of
from lcprune.pipeline.rows import progressive_rows


def evaluate(folder: Path) -> dict[str, Any]:
    """What the stored logits say about the test split, or about validation where there are no test images.

    Raises:
        RunError: If the run is not finished, or has neither test nor validation images.
    """
    folder, recipe = runs.open_run(folder)
    arrays = runs.read_predictions(folder)
    split = "test" if len(arrays["test_labels"]) else "val"
    logits, labels = arrays[f"{split}_logits"], arrays[f"{split}_labels"]
    if not len(labels):
        raise RunError(
            f"{folder} has neither test nor validation images", "train with data.val_size above 0, or add test images"
        )
    costs = costs_of(folder, recipe)
    names = [cost.name for cost in costs.exits]
    accuracies = analysis.accuracies_pct(logits, labels)
    cascade = costs.cascade
    swept = analysis.sweep(logits, labels, cascade.exit_macs(), cascade.main_macs) if len(logits) > 1 else ()
    return {
        "split": split,
        "samples": len(labels),
        "exits": [
            {"name": name, "exit_index": index, "accuracy_pct": accuracy}
            for index, (name, accuracy) in enumerate(zip(names, accuracies, strict=True))
        ],
        "ensembles": analysis.ensembles(logits, labels),
        "progressive": progressive_rows(swept),
    }
