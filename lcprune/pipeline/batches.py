"""The training batches of a recipe."""

from typing import Any

import torch

from lcprune.data.loaders import TrainLoader
from lcprune.data.sampling import Targets, class_weights
from lcprune.data.sources import Dataset
from lcprune.data.stream import FileImages
from lcprune.data.streaming import Streaming, StreamLoader
from lcprune.recipe import Recipe


def batches_of(
    recipe: Recipe, dataset: Dataset, device: torch.device, rows: slice | None = None
) -> TrainLoader | StreamLoader:
    """Batches on `device`; `rows` of each of them, or all.

    Raises:
        DataError: If there are fewer images than a batch has.
    """
    data, labels = recipe.data, dataset.train.labels
    weights = class_weights(labels, len(dataset.classes))
    drawn = weights[torch.from_numpy(labels)] if data.balance == "sampling" else None
    targets = Targets(
        classes=len(dataset.classes),
        seed=recipe.train.seed,
        mixup=data.mixup,
        cutmix=data.cutmix,
        loss_weights=weights if data.balance == "loss" else None,
    )
    common: dict[str, Any] = {
        "batch_size": data.batch_size,
        "pad": data.pad,
        "seed": recipe.train.seed,
        "flip": data.flip,
    }
    to: dict[str, Any] = {
        "device": device,
        "channels_last": recipe.train.channels_last,
        "targets": targets,
        "weights": drawn,
        "rows": rows,
    }
    in_memory = not isinstance(dataset.train.images, FileImages)
    if in_memory and data.augment != "resized_crop" and data.augment != "randaugment":
        return TrainLoader(dataset.train, augment=data.augment, **common, **to)
    streaming = Streaming(augment=data.augment, interpolation=data.interpolation, workers=data.workers, **common)
    return StreamLoader(dataset.train, streaming, **to)
