"""Critics: the side networks that estimate main's loss from a hidden layer (Eq. 2 and 3 of the paper)."""

import importlib
import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

from lcprune.errors import ModelError
from lcprune.models.layers import AveragePool, Flatten
from lcprune.models.trunk import Shape, convolution
from lcprune.specs import HEADS


@dataclass(frozen=True)
class CriticDesign:
    """A critic in three parts: what reduces the hidden layer, convolutions, and a linear layer.

    A head may ignore some of these: ``msdnet`` uses the channels only.
    """

    head: str
    """A name in `lcprune.specs.HEADS`."""
    depth: int
    """Convolutions after the reduction; those of a strided reduction are not counted."""
    channels: int
    """Of each convolution."""
    pool_to: int = 4
    """Height and width to which the hidden layer is reduced; ``paper`` does not reduce."""
    kernel: Literal[1, 3] = 3
    """Height and width of the convolutions after the reduction; depthwise and strided ones always have 3."""
    batch_norm: bool = False
    """BatchNorm after each convolution. The paper has none."""


def build_critic(shape: Shape, classes: int, design: CriticDesign) -> nn.Sequential:
    """Layers from a hidden layer to logits: ``(N, *shape)`` to ``(N, classes)``.

    A head is a list of modules that torch can export to ONNX, without control flow that depends on the image. It takes
    `Flatten` and `AveragePool` from `lcprune.models.layers`, which keep channels_last and which int8 has kernels for.
    `lcprune.models.build` draws the weights of all its Conv2d and Linear layers and sets their biases to 0.

    Args:
        shape: Of the hidden layer, ``(C, H, W)``.
        classes: Number of logits.
        design: What to build.

    Raises:
        ModelError: If the hidden layer cannot be reduced to `pool_to`.
    """
    return nn.Sequential(*importlib.import_module(HEADS[design.head].module).build_head(shape, classes, design))


def build_head(shape: Shape, classes: int, design: CriticDesign) -> list[nn.Module]:
    """See `build_critic`; the heads that are a reduction, convolutions and a linear layer."""
    spec = HEADS[design.head]
    layers, (channels, height, width) = _reduction(shape, design)
    for _ in range(design.depth):
        if spec.separable:
            layers += _separable(channels, design)
        else:
            layers += convolution(channels, design.channels, design.kernel, batch_norm=design.batch_norm)
        channels = design.channels
    if spec.global_average:
        layers += _average((height, width))
        height = width = 1
    return [*layers, Flatten(), nn.Linear(channels * height * width, classes)]


def _reduction(shape: Shape, design: CriticDesign) -> tuple[list[nn.Module], Shape]:
    """Layers that reduce the hidden layer to `pool_to` in width and height, and the shape after them."""
    reduction = HEADS[design.head].reduction
    if reduction is None:
        return [], shape
    channels, height, width = shape
    size = design.pool_to
    if height % size or width % size:
        raise ModelError(
            f"a {design.head} critic on a hidden layer of {height}x{width} cannot reduce it to {size}x{size}",
            f"set critics.pool_to to a divisor of {height} and {width}, or critics.head: paper",
        )
    if reduction == "pool":
        return _average((height // size, width // size)), (channels, size, size)
    layers: list[nn.Module] = []
    for _ in range(_halvings(height, width, size)):
        layers += convolution(channels, design.channels, 3, stride=2, batch_norm=design.batch_norm)
        channels = design.channels
    return layers, (channels, size, size)


def _halvings(height: int, width: int, size: int) -> int:
    """How many times height and width are halved until they are `size`."""
    halvings = (height // size).bit_length() - 1
    if not height == width == size << halvings:
        raise ModelError(
            f"a strided critic on a hidden layer of {height}x{width} cannot halve it to {size}x{size}",
            f"set critics.pool_to so that {height} and {width} are the same power of 2 times it, "
            "or critics.head: pooled",
        )
    return halvings


def _average(window: tuple[int, int]) -> list[nn.Module]:
    # Also where it covers the whole layer: the int8 export turns an AveragePool into a convolution.
    return [AveragePool(window)] if math.prod(window) > 1 else []


def _separable(in_channels: int, design: CriticDesign) -> list[nn.Module]:
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution that mixes them."""
    # No activation between the two, so a bias in the first would be redundant.
    depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
    return [depthwise, *convolution(in_channels, design.channels, 1, batch_norm=design.batch_norm)]


def mixes_samples(module: nn.Module) -> bool:
    """Whether an image's output depends on the other images of its batch, as with BatchNorm in training."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())
