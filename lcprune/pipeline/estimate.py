"""How long the steps of a training take on this machine, from a few of them on random images."""

import time

import torch

from lcprune import models
from lcprune.data import sources
from lcprune.models.check import check_forward_pass
from lcprune.pipeline.train import choose_device, with_cuts
from lcprune.recipe import Recipe
from lcprune.training import precision
from lcprune.training.methods import build_method
from lcprune.training.optim import build_optimizers
from lcprune.training.step import EagerStep

IMAGES = 16
"""Of a measured step, if the recipe's batches are not smaller: a larger one takes as much longer."""
STEPS = 3
"""Measured, of which the first does not count: it allocates memory."""


def step_seconds(recipe: Recipe) -> float:
    """Seconds of a training step on the fastest device here, without the loading of images and without evaluations.

    Raises:
        LcpruneError: If the network cannot be built.
    """
    classes, image_shape = sources.describe(recipe.data, None)
    device, batch = choose_device("auto"), min(IMAGES, recipe.data.batch_size)
    layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    recipe, ones = with_cuts(recipe, classes, image_shape), (1.0,) * image_shape[0]
    with torch.random.fork_rng(devices=[]):
        network = models.build(recipe, classes, image_shape, ones, ones)
        check_forward_pass(network, image_shape, batch)
        network.to(device).to(memory_format=layout)
        method = build_method(recipe, network, STEPS)
        bf16 = precision.resolve(recipe.train.precision, device) == "bf16"
        step = EagerStep(method, build_optimizers(recipe, network), device, bf16)
        images = torch.rand(batch, *image_shape).to(device, memory_format=layout)
        labels = torch.arange(batch, device=device) % classes
        taken_s = []
        for number in range(STEPS):
            started = time.perf_counter()
            losses = step(images, labels, number)
            losses.exits.sum().item()  # waits for the device
            taken_s.append(time.perf_counter() - started)
    return min(taken_s[1:]) * recipe.data.batch_size / batch
