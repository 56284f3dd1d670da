"""Accuracy of a run's exits, ensembles and progressive inference: arithmetic on its stored predictions."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lcprune import runs
from lcprune.analysis.ensembles import ensemble_table, ensembles
from lcprune.analysis.evaluate import exit_rows, sweep
from lcprune.errors import RunError
from lcprune.pipeline import stored
from lcprune.pipeline.costs import costs_of
from lcprune.pipeline.train import choose_device
from lcprune.recipe import Recipe
from lcprune.training.predicting import predict_logits


def evaluate(folder: Path, *, flip: bool = False, data_root: Path | None = None) -> dict[str, Any]:
    """Accuracies on the test split, or on validation where there are no test images, from the stored logits.

    Args:
        folder: A finished run.
        flip: Whether to take the mean of the logits of each image and of its mirror image instead. Both are computed
            now, from the weights and the run's images; the stored logits are unchanged. MACs count twice.
        data_root: Folder of those images, if they have moved.

    Raises:
        RunError: If the run is not finished, or has neither test nor validation images.
        DataError: If `flip` needs images that are no longer there.
    """
    folder, recipe = runs.open_run(folder)
    arrays = runs.read_predictions(folder)
    split = "test" if len(arrays["test_labels"]) else "val"
    logits, labels = arrays[f"{split}_logits"], arrays[f"{split}_labels"]
    if not len(labels):
        raise RunError(
            f"{folder} has neither test nor validation images", "train with data.val_size above 0, or add test images"
        )
    if flip:
        logits, labels = _flipped(folder, recipe, split, data_root)
    # Weights that are evaluated on the rows that they were fitted to would look better than they are.
    val_logits, val_labels = (arrays["val_logits"], arrays["val_labels"]) if split == "test" else (None, None)
    costs = costs_of(folder, recipe)
    swept = sweep(logits, labels, costs.cascade.exit_macs(), costs.cascade.main_macs) if len(costs.exits) > 1 else ()
    names = [cost.name for cost in costs.exits]
    kinds = ensemble_table(val_logits, val_labels, logits, labels, names)
    result: dict[str, Any] = {
        "split": split,
        "samples": len(labels),
        "exits": exit_rows([(cost.name, cost.exit_index) for cost in costs.exits], logits, labels),
        "ensembles": ensembles(logits, labels, names),
        "ensemble_kinds": [asdict(row) for row in kinds],
        "progressive": [row.as_json() for row in swept],
    }
    if not flip:
        return result
    twice = [row | {key: 2 * row[key] for key in ("mean_macs", "macs_ratio")} for row in result["progressive"]]
    return result | {"progressive": twice, "flip": True}


def _flipped(
    folder: Path, recipe: Recipe, name: str, data_root: Path | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Logits ``(K, N, C)``, means over each image and its mirror image, and labels ``(N,)``."""
    dataset, _ = stored.load_dataset(folder, recipe, data_root)
    split = dataset.test if name == "test" else dataset.val
    device, channels_last = choose_device("auto"), recipe.train.channels_last
    network = stored.load_network(folder, recipe)[0].to(device)
    logits = predict_logits(network, split, device, channels_last)
    logits += predict_logits(network, split.mirrored(), device, channels_last)
    return (logits / 2).numpy(), split.labels
