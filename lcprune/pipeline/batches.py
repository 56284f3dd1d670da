"""The training batches of a recipe, the rows that this process trains on."""

from typing import Any

import torch

from lcprune.data.file_images import FileImages
from lcprune.data.loaders import LabelLoader, Loader, TrainLoader
from lcprune.data.sampling import Targets, class_weights
from lcprune.data.sources import Dataset
from lcprune.data.streaming import StreamLoader
from lcprune.recipe import Recipe
from lcprune.training.parallel import Coordinator


def loader_of(recipe: Recipe, dataset: Dataset, coordinator: Coordinator) -> Loader:
    """What this process learns from: its rows of every batch, and where it has no first layers, their labels alone.

    Raises:
        LcpruneError: If batches cannot be made or shared, or the recipe asks for what several processes cannot do.
    """
    coordinator.check(recipe)
    data, labels = recipe.data, dataset.train.labels
    weights = class_weights(labels, len(dataset.classes))
    common: dict[str, Any] = {
        "batch_size": data.batch_size,
        "pad": data.pad,
        "seed": recipe.train.seed,
        "flip": data.flip,
        "device": coordinator.device,
        "channels_last": recipe.train.channels_last,
        "targets": Targets(
            classes=len(dataset.classes),
            seed=recipe.train.seed,
            mixup=data.mixup,
            cutmix=data.cutmix,
            loss_weights=weights if data.balance == "loss" else None,
        ),
        "weights": weights[torch.from_numpy(labels)] if data.balance == "sampling" else None,
        "rows": coordinator.rows(data.batch_size),
    }
    loader: Loader
    in_memory = not isinstance(dataset.train.images, FileImages)
    if in_memory and data.augment != "resized_crop" and data.augment != "randaugment":
        loader = TrainLoader(dataset.train, augment=data.augment, **common)
    else:
        own: dict[str, Any] = {"augment": data.augment, "interpolation": data.interpolation, "workers": data.workers}
        loader = StreamLoader(dataset.train, **own, **common)
    return loader if coordinator.reads_images else LabelLoader(loader)
