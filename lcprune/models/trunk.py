"""Shared by all built-in backbones: scaling of channels, layer groups, and the check of the image size."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from lcprune.errors import ModelError

Shape = tuple[int, int, int]
"""``(C, H, W)``."""


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded, at least 1."""
    return max(1, round(channels * width))


def convolution(
    in_channels: int, channels: int, kernel: int, *, stride: int = 1, batch_norm: bool = True
) -> list[nn.Module]:
    """A convolution with even padding, BatchNorm or a bias, and ReLU."""
    layer = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, bias=not batch_norm)
    return [layer, *([nn.BatchNorm2d(channels)] if batch_norm else []), nn.ReLU(inplace=True)]


def cut(layers: Sequence[Sequence[nn.Module]], cuts: Sequence[int], unit: str) -> list[nn.Sequential]:
    """The layer groups of a backbone.

    Args:
        layers: The modules of each place at which a backbone can be cut, shallow first.
        cuts: Places, counted from 1, after which a group ends.
        unit: What the places are called, for the error.

    Raises:
        ModelError: If a cut is not inside the backbone.
    """
    if outside := [place for place in cuts if not 0 < place < len(layers)]:
        raise ModelError(
            f"critics.after: {outside} is not inside the backbone, which has {len(layers)} {unit}",
            f"write places from 1 to {len(layers) - 1}",
        )
    edges = pairwise([0, *cuts, len(layers)])
    return [nn.Sequential(*(module for layer in layers[start:end] for module in layer)) for start, end in edges]


def check_size(image_shape: Shape, halvings: int, trunk: str) -> None:
    """Refuses an image that would be reduced to nothing.

    Raises:
        ModelError: If the image is too small to be halved so often.
    """
    _, height, width = image_shape
    if min(height, width) >> halvings == 0:
        raise ModelError(
            f"an image of {height}x{width} cannot be halved {halvings} times",
            f"the {trunk} backbone needs at least {1 << halvings}x{1 << halvings} pixels: raise data.image_size",
        )
