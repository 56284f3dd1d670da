"""The training batches of a recipe."""

import torch

from lcprune.data.loaders import TrainLoader
from lcprune.data.sampling import Targets, class_weights
from lcprune.data.sources import Dataset
from lcprune.recipe import Recipe
from lcprune.training.parallel import Coordinator


def loader_of(recipe: Recipe, dataset: Dataset, coordinator: Coordinator) -> TrainLoader:
    """The batches of this process: its rows of every batch, and only their labels if it has no first layers.

    Raises:
        LcpruneError: If batches cannot be made or shared, or the recipe asks for what several processes cannot do.
    """
    coordinator.check(recipe)
    data, labels = recipe.data, dataset.train.labels
    weights = class_weights(labels, len(dataset.classes))
    return TrainLoader(
        dataset.train,
        batch_size=data.batch_size,
        augment=data.augment,
        pad=data.pad,
        seed=recipe.train.seed,
        device=coordinator.device,
        channels_last=recipe.train.channels_last,
        flip=data.flip,
        targets=Targets(
            classes=len(dataset.classes),
            seed=recipe.train.seed,
            mixup=data.mixup,
            cutmix=data.cutmix,
            loss_weights=weights if data.balance == "loss" else None,
        ),
        weights=weights[torch.from_numpy(labels)] if data.balance == "sampling" else None,
        rows=coordinator.rows(data.batch_size),
        interpolation=data.interpolation,
        crop_scale=data.crop_scale,
        workers=data.workers,
        labels_only=not coordinator.reads_images,
    )
