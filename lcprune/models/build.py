"""From a recipe to a network."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lcprune.errors import ModelError
from lcprune.models.backbones import build_backbone, cut_names
from lcprune.models.critics import CriticDesign, build_critic
from lcprune.models.msdnet import LAYERS, build_msdnet, reader
from lcprune.models.network import Network, Normalize, Parts
from lcprune.models.resnet import build_resnet
from lcprune.models.synthesizers import Synthesizer
from lcprune.models.trunk import Shape
from lcprune.models.vgg import build_vgg
from lcprune.models.whitening import Whitening
from lcprune.recipe import Recipe
from lcprune.specs import METHODS


def build(
    recipe: Recipe,
    classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
) -> Network:
    """The network of a recipe, with initial weights drawn from the recipe's seed.

    ``method: backprop`` trains no critics, so its network has one exit: the backbone, or with ``model.submodel`` the
    layers of that sub-model, including its critic's convolutions. That of ``method: dni`` has one exit too; its
    one group is made of the parts between the places of `critics.after`, and `Network.synthesizers` stand beside it.

    Args:
        recipe: Specifies backbone, critics, initial weights and seed.
        classes: Number of classes of the data.
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
    if recipe.data.sizes:
        return _build_sizes(recipe, classes, image_shape, mean, std)
    return _build_one(recipe, classes, image_shape, mean, std)


def _build_sizes(
    recipe: Recipe, classes: int, image_shape: Shape, mean: Sequence[float], std: Sequence[float]
) -> Network:
    """One network of several input sizes: that of the largest, and the others with its weights and its cuts."""
    *smaller, largest = recipe.data.sizes
    main = _build_one(recipe, classes, image_shape, mean, std)
    if names := cut_names(main.groups):
        cuts = {"cuts": names, "groups": len(names) + 1}
        after = {"after": tuple(range(1, len(names) + 1))}
        recipe = recipe.model_copy(
            update={"model": recipe.model.model_copy(update=cuts), "critics": recipe.critics.model_copy(update=after)}
        )
    groups: list[nn.Module] = []
    critics: list[nn.Module] = []
    sizes: list[int] = []
    for size in smaller:
        network = _build_one(recipe, classes, (image_shape[0], size, size), mean, std)
        _share_weights(main.groups, network.groups, size)
        groups += network.groups
        critics += [*network.critics, nn.Identity()]
        sizes += [size] * len(network.groups)
    sizes += [largest] * len(main.groups)
    return Network(main.normalize, [*groups, *main.groups], [*critics, *main.critics], image_sizes=sizes)


def _share_weights(source: nn.Module, other: nn.Module, size: int) -> None:
    """Gives `other` the parameters of `source`, a module of the same structure, but for those of BatchNorm.

    Source of a BatchNorm for each size: Wang et al. 2020, "Resolution Switchable Networks", ECCV.
    """
    theirs = dict(source.named_modules())
    for name, module in other.named_modules():
        if isinstance(module, _BatchNorm):
            continue
        for key, parameter in module.named_parameters(recurse=False):
            shared = getattr(theirs[name], key)
            if shared.shape != parameter.shape:
                raise ModelError(
                    f"groups.{name}.{key} is {tuple(parameter.shape)} for images of {size} pixels, and "
                    f"{tuple(shared.shape)} for the largest ones",
                    "take a backbone that ends in a global average pool, or write one size in data.image_size",
                )
            setattr(module, key, shared)


def _build_one(
    recipe: Recipe, classes: int, image_shape: Shape, mean: Sequence[float], std: Sequence[float]
) -> Network:
    """The network of one input size."""
    config = recipe.critics
    submodel = recipe.model.submodel
    method = METHODS[recipe.train.method]
    only_main = method.side is None and submodel is None
    in_parts = bool(recipe.train.frozen_groups) or recipe.train.layer_decay != 1  # which differ from each other
    after = () if only_main and not in_parts else config.after or ()
    if method.needs_cuts and not after:
        raise ModelError(
            f"{recipe.train.method} needs a critic, but critics.after is empty",
            "leave critics.after out, or write places such as after: [2, 5, 8]",
        )
    groups, shapes = _build_trunk(recipe, image_shape, classes, after)
    if method.side == "synthesizers":
        label_channels = classes if config.condition_on_label else 0
        synthesizers = [
            Synthesizer(*side, label_channels) for side in zip(shapes, _designs(recipe, shapes), strict=True)
        ]
        return _initialized(Network(Normalize(mean, std), [Parts(*groups)], [], synthesizers), recipe)
    if only_main:
        whole = Parts(*groups) if in_parts else groups[0]
        return _initialized(Network(Normalize(mean, std), [whole], []), recipe)
    critics = [
        _critic(group, shape, classes, design)
        for group, shape, design in zip(groups[:-1], shapes, _designs(recipe, shapes) if after else (), strict=True)
    ]
    if submodel is not None:
        shallow, last = groups[: submodel - 1], _joined(groups[submodel - 1], critics[submodel - 1])
        groups, critics = [Parts(*shallow, last) if in_parts else _joined(*shallow, last)], []
    return _initialized(Network(Normalize(mean, std), groups, critics), recipe)


def _initialized(network: Network, recipe: Recipe) -> Network:
    initialize(network, recipe.train.init, recipe.train.seed)
    for module in network.synthesizers:
        if isinstance(module, Synthesizer):
            module.silence()
    return network


def _joined(*parts: nn.Sequential) -> nn.Sequential:
    """One layer group of the layers of several."""
    return nn.Sequential(*(layer for part in parts for layer in part))


def _critic(group: nn.Sequential, shape: Shape, classes: int, design: CriticDesign) -> nn.Sequential:
    """The critic of a group that ends in a hidden layer of ``(C, H, W)``."""
    start, read = reader(group, shape)
    return nn.Sequential(*start, *build_critic(read, classes, design))


def _designs(recipe: Recipe, shapes: Sequence[Shape]) -> list[CriticDesign]:
    """What each critic is, by the hidden layers ``(C, H, W)`` that they read."""
    config = recipe.critics
    designs = [
        CriticDesign(config.head, depth, channels, pool_to, config.kernel, config.batch_norm)
        for depth, channels, pool_to in zip(config.depths, config.channel_counts, config.pool_sizes, strict=True)
    ]
    if not recipe.model.is_external:
        return designs
    return [
        replace(design, pool_to=_largest_divisor(math.gcd(*shape[1:]), design.pool_to))
        for design, shape in zip(designs, shapes, strict=True)
    ]


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is no larger than `limit`; 1 at the least."""
    return max(divisor for divisor in range(1, limit + 1) if number % divisor == 0)


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
    if model.is_external:
        return build_backbone(model, image_shape, classes, cuts=cuts, seed=recipe.train.seed)
    if model.trunk == "vgg":
        return build_vgg(image_shape, classes, width=model.width, downsample=model.downsample, cuts=cuts)
    if model.trunk == "msdnet":
        return build_msdnet(image_shape, classes, layers=model.layers or LAYERS, width=model.width, cuts=cuts)
    return build_resnet(image_shape, classes, trunk=model.trunk, width=model.width, cuts=cuts, stem=model.stem)


def initialize(network: nn.Module, scheme: Literal["xavier", "kaiming"], seed: int) -> None:
    """Draws the weights of all convolutions and linear layers; biases become 0. The global generator is not used.

    The layers of an external backbone keep their weights.
    """
    external = {
        id(part) for graph in network.modules() if isinstance(graph, fx.GraphModule) for part in graph.modules()
    }
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear) or id(module) in external:
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
