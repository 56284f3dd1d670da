"""The paper's backbone: a VGG-like network of eleven convolutions (Figure 2a, rebuilt from Table 5)."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from lcprune.models.layers import Flatten
from lcprune.models.trunk import Shape, check_size, convolution, cut, scaled

STAGES = ((64, 2), (128, 3), (256, 3), (512, 3))
"""Channels and number of convolutions of each stage; the size halves before every stage but the first."""


def build_vgg(
    image_shape: Shape,
    classes: int,
    *,
    width: float,
    downsample: Literal["max_pool", "stride"],
    cuts: Sequence[int],
) -> tuple[list[nn.Sequential], list[Shape]]:
    """The layer groups, and the shape ``(C, H, W)`` at each cut.

    Args:
        image_shape: ``(C, H, W)`` of an image.
        classes: Number of logits.
        width: Factor on the channels of every layer.
        downsample: A 2x2 max pool before a stage, or a stride of 2 in its first convolution.
        cuts: Convolutions, counted from 1, after which a group ends.

    Raises:
        ModelError: If a cut is not inside the network, or the image is too small to be halved three times.
    """
    check_size(image_shape, len(STAGES) - 1, "vgg")
    channels, height, wide = image_shape
    layers: list[list[nn.Module]] = []
    shapes = []
    for stage, (full_channels, count) in enumerate(STAGES):
        out_channels = scaled(full_channels, width)
        for position in range(count):
            halve = stage > 0 and position == 0
            if halve:
                # A convolution of stride 2 keeps the odd row that a max pool drops.
                height, wide = (
                    ((height + 1) // 2, (wide + 1) // 2) if downsample == "stride" else (height // 2, wide // 2)
                )
            layers.append(_layer(channels, out_channels, halve, downsample))
            channels = out_channels
            shapes.append((channels, height, wide))
    layers[-1] += [Flatten(), nn.Linear(channels * height * wide, classes)]
    groups = cut(layers, cuts, "convolutions")
    return groups, [shapes[place - 1] for place in cuts]


def _layer(in_channels: int, out_channels: int, halve: bool, downsample: str) -> list[nn.Module]:
    pool: list[nn.Module] = [nn.MaxPool2d(2)] if halve and downsample == "max_pool" else []
    stride = 2 if halve and downsample == "stride" else 1
    return [*pool, *convolution(in_channels, out_channels, 3, stride=stride)]
