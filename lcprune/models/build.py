"""From a recipe to a network."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from lcprune.errors import ModelError
from lcprune.models.critics import CriticDesign, build_critic
from lcprune.models.network import Network, Normalize
from lcprune.models.resnet import build_resnet
from lcprune.models.trunk import Shape
from lcprune.models.vgg import build_vgg
from lcprune.models.whitening import Whitening
from lcprune.recipe import Recipe


def build(
    recipe: Recipe,
    classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
) -> Network:
    """The network of a recipe, with initial weights drawn from the recipe's seed.

    ``method: backprop`` trains no critics, so its network has none and one exit.

    Args:
        recipe: Says trunk, critics, initial weights and seed.
        classes: What the data has.
        image_shape: ``(C, H, W)``.
        mean: Per channel, of images in 0..1.
        std: Per channel, of images in 0..1.

    Raises:
        ModelError: If the recipe's parts do not fit together or do not fit the data.
    """
    if recipe.model.classes not in (None, classes):
        raise ModelError(
            f"model.classes is {recipe.model.classes} but the data has {classes} classes",
            f"set model.classes: {classes}, or leave it out",
        )
    config = recipe.critics
    after = () if recipe.train.method == "backprop" else config.after or ()
    if recipe.train.method == "local_critic" and not after:
        raise ModelError(
            "local_critic needs a critic, but critics.after is empty",
            "leave critics.after out, or write places such as after: [2, 5, 8]",
        )
    groups, shapes = _build_trunk(recipe, image_shape, classes, after)
    critics = [
        build_critic(shape, classes, design)
        for shape, design in zip(shapes, _designs(recipe) if after else (), strict=True)
    ]
    network = Network(Normalize(mean, std), groups, critics)
    initialize(network, recipe.train.init, recipe.train.seed)
    return network


def _designs(recipe: Recipe) -> list[CriticDesign]:
    config = recipe.critics
    return [
        CriticDesign(config.head, depth, channels, pool_to, config.kernel, config.batch_norm)
        for depth, channels, pool_to in zip(config.depths, config.channel_counts, config.pool_sizes, strict=True)
    ]


def _build_trunk(
    recipe: Recipe, image_shape: Shape, classes: int, cuts: Sequence[int]
) -> tuple[list[nn.Sequential], list[Shape]]:
    """The layer groups, and the shape ``(C, H, W)`` at each cut."""
    if not recipe.model.whiten:
        return _build_plain_trunk(recipe, image_shape, classes, cuts)
    whitening = Whitening(image_shape[0])
    groups, shapes = _build_plain_trunk(recipe, (whitening.out_channels, *image_shape[1:]), classes, cuts)
    groups[0].insert(0, whitening)
    return groups, shapes


def _build_plain_trunk(
    recipe: Recipe, image_shape: Shape, classes: int, cuts: Sequence[int]
) -> tuple[list[nn.Sequential], list[Shape]]:
    model = recipe.model
    if model.trunk == "vgg":
        return build_vgg(image_shape, classes, width=model.width, downsample=model.downsample, cuts=cuts)
    return build_resnet(image_shape, classes, trunk=model.trunk, width=model.width, cuts=cuts)


def initialize(network: nn.Module, scheme: Literal["xavier", "kaiming"], seed: int) -> None:
    """Draws the weights of all convolutions and linear layers; biases become 0. The global generator is left alone."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        # Group by group: torch takes the outputs of all groups for those of one, and draws depthwise weights too small.
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        for weight in module.weight.detach().chunk(groups):
            if scheme == "xavier" or isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(weight, generator=generator)
            else:
                nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
