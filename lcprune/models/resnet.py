"""The paper's ResNets of pre-activated bottlenecks, for small images (Table 8) and for ImageNet (Table 9).

Source: He et al. 2016, arXiv:1603.05027 (identity mappings), with the 3x3 stem of stride 1 that suits 32x32 pixels, or
the 7x7 stem and the max pool of He et al. 2015, arXiv:1512.03385. The paper cites the latter for both tables, whose
blocks are activated after the sum; those of its public code are pre-activated, and so they are here.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from lcprune.models.layers import AveragePool
from lcprune.models.trunk import Shape, check_size, cut, scaled

RESNETS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
"""Residual blocks in each stage; the size halves in the first block of every stage but the first."""
CHANNELS = (64, 128, 256, 512)
"""Of the bottlenecks in each stage; a block's output has `EXPANSION` times as many."""
EXPANSION = 4
IMAGENET_FROM = 128
"""Height and width, in pixels, from which on ``stem: auto`` is ``imagenet``."""


class Bottleneck(nn.Module):
    """A residual block: BatchNorm and ReLU stand before each of its convolutions 1x1, 3x3 and 1x1.

    The shortcut is not activated, so a block's output is a raw sum. Every ReLU is in-place: it overwrites the output of
    a BatchNorm, whose backward pass needs its input only.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        """`channels` are those of the bottleneck; `stride` is that of the 3x3 convolution and of the shortcut."""
        super().__init__()
        out_channels = EXPANSION * channels
        self.activate = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, out_channels, 1, bias=False),
        )
        changes_shape = stride != 1 or in_channels != out_channels
        self.project = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, 4 * channels, ceil(H / stride), ceil(W / stride))``; `x` is not modified."""
        activated = self.activate(x)
        residual: Tensor = self.residual(activated)
        return residual + (x if self.project is None else self.project(activated))


def build_resnet(
    image_shape: Shape,
    classes: int,
    *,
    trunk: str,
    width: float,
    cuts: Sequence[int],
    stem: Literal["auto", "small", "imagenet"] = "auto",
) -> tuple[list[nn.Sequential], list[Shape]]:
    """The layer groups, and the shape ``(C, H, W)`` at each cut.

    A group ends in the raw sum of its last block, and the paper's critic reads that sum directly: the BatchNorm and
    ReLU that activate it belong to the next block.

    Args:
        image_shape: ``(C, H, W)`` of an image.
        classes: Number of logits.
        trunk: A name in `RESNETS`.
        width: Factor on the channels of every layer.
        cuts: Residual blocks, counted from 1, after which a group ends.
        stem: Layers before the blocks; see `model.stem` in a recipe.

    Raises:
        ModelError: If a cut is not inside the network, or the image is too small to be halved three times (five times
            with the stem of ImageNet).
    """
    first, (channels, height, wide) = _stem(image_shape, trunk, scaled(CHANNELS[0], width), stem)
    layers: list[list[nn.Module]] = []
    shapes = []
    for stage, (full_channels, count) in enumerate(zip(CHANNELS, RESNETS[trunk], strict=True)):
        bottleneck = scaled(full_channels, width)
        for position in range(count):
            stride = 2 if stage > 0 and position == 0 else 1
            layers.append([Bottleneck(channels, bottleneck, stride)])
            channels = EXPANSION * bottleneck
            height, wide = -(-height // stride), -(-wide // stride)  # a padded convolution keeps an odd row
            shapes.append((channels, height, wide))
    layers[0] = first + layers[0]
    layers[-1] += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    layers[-1] += [AveragePool((height, wide)), nn.Flatten(), nn.Linear(channels, classes)]
    groups = cut(layers, cuts, "residual blocks")
    return groups, [shapes[place - 1] for place in cuts]


def _stem(image_shape: Shape, trunk: str, channels: int, stem: str) -> tuple[list[nn.Module], Shape]:
    """The layers before the first block, and the shape ``(C, H, W)`` that they give."""
    inputs, height, width = image_shape
    if stem == "small" or (stem == "auto" and min(height, width) < IMAGENET_FROM):
        check_size(image_shape, len(CHANNELS) - 1, trunk)
        return [nn.Conv2d(inputs, channels, 3, padding=1, bias=False)], (channels, height, width)
    check_size(image_shape, len(CHANNELS) + 1, trunk)
    # Neither BatchNorm nor ReLU: the first block begins with both.
    layers = [nn.Conv2d(inputs, channels, 7, stride=2, padding=3, bias=False), nn.MaxPool2d(3, stride=2, padding=1)]
    return layers, (channels, -(-height // 4), -(-width // 4))
