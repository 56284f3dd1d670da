"""What the benchmarks train: networks of recipes, and images of noise that are as many and as large as CIFAR's."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lcprune import recipe as recipes
from lcprune.data.sources import Split
from lcprune.models import Network, build
from lcprune.recipe import Recipe

SAMPLES = 20_000
"""Images; no loop of a comparison comes to the end of an epoch, where workers would be started again."""
SEED = 0
SHAPES = {"digits": (10, (1, 8, 8)), "cifar10": (10, (3, 32, 32)), "cifar100": (100, (3, 32, 32))}
MEAN, STD = 0.5, 0.25


def load(name: str, overrides: Sequence[str]) -> Recipe:
    """A recipe that trains as long as it is asked to, and in which nothing but the steps takes time.

    The learning rate is small: what is learnt from noise does not matter, but that it stays finite does.
    """
    endless = ("train.iterations=1000000", "train.checkpoint_every=1000000", "train.evaluate_every=1000000")
    return recipes.load(name, [*endless, "train.lr=1e-3", "critics.lr=1e-5", *overrides])


def make_network(recipe: Recipe, device: torch.device) -> Network:
    """The network of a recipe as `lcprune train` would have it, in training mode."""
    classes, shape = SHAPES[recipe.data.source]
    network = build(recipe, classes, shape, (MEAN,) * shape[0], (STD,) * shape[0])
    return network.to(device).to(memory_format=memory_format(recipe)).train()


def memory_format(recipe: Recipe) -> torch.memory_format:
    """How the recipe lays out images and weights."""
    return torch.channels_last if recipe.train.channels_last else torch.contiguous_format


def noise(recipe: Recipe, samples: int = SAMPLES) -> Split:
    """Images and labels of noise, shaped as the recipe's."""
    classes, shape = SHAPES[recipe.data.source]
    generator = np.random.default_rng(SEED)
    images = generator.integers(0, 256, (samples, *shape), dtype=np.uint8)
    return Split(images, generator.integers(0, classes, samples, dtype=np.int64))


def tensors(recipe: Recipe, split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images in 0..1 and labels, as a step gets them."""
    images = torch.from_numpy(split.images).to(device).float().div_(255)
    return images.contiguous(memory_format=memory_format(recipe)), torch.from_numpy(split.labels).to(device)


def count_macs(recipe: Recipe) -> tuple[int, int]:
    """Multiply-adds of the groups, and of groups and critics, for one image.

    Half of torch's own count, which is the same as the one that `lcprune profile` shows, but needs no other package.
    """
    network = make_network(recipe, torch.device("cpu")).eval()
    found = []
    for module in (network.submodel(len(network.groups)), network):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(torch.zeros(1, *SHAPES[recipe.data.source][1]))
        found.append(int(counter.get_total_flops()) // 2)
    return found[0], found[1]
