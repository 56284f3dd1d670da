"""MSDNet, with which the paper compares in anytime prediction: a dense network with features of several scales.

Source: Huang et al. 2018, arXiv:1703.09844, for CIFAR, with the sizes of its public PyTorch code: three scales, a layer
adds 6, 12 and 24 channels to them (finest first), bottlenecks, and after each third of the layers the finest scale and
half of the channels are dropped. Its "lazy evaluation" is not implemented: every layer computes all of its scales.

The state between two layers is a list of tensors, one for each scale; between two groups it is one tensor, in which the
scales lie one after the other.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lcprune.models.critics import CriticDesign
from lcprune.models.layers import AveragePool, Flatten
from lcprune.models.trunk import Shape, check_size, convolution, cut, scaled

FACTORS = (1, 2, 4)
"""Channels of each scale, finest first, relative to the finest; a bottleneck has as many times what it leads to."""
BASE = 16
"""Channels of the finest scale before the first layer."""
GROWTH = 6
"""Channels that a layer adds to the finest scale."""
LAYERS = 16
"""Default number of dense layers."""
CLASSIFIER = 128
"""Channels of main's classifier."""


class Pack(nn.Module):
    """Flattens the scales of a state into one tensor: the output of a group."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        """`shapes` ``(C, H, W)`` of the scales, finest first."""
        super().__init__()
        self.shapes = tuple(shapes)

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        """Tensors ``(N, C, H, W)`` to ``(N, D, 1, 1)``, where D counts all their values."""
        return torch.cat([scale.flatten(1) for scale in scales], dim=1)[:, :, None, None]


class Unpack(nn.Module):
    """The inverse of `Pack`."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        """`shapes` ``(C, H, W)`` of the scales, finest first."""
        super().__init__()
        self.shapes = tuple(shapes)

    def forward(self, packed: Tensor) -> list[Tensor]:
        """``(N, D, 1, 1)`` to tensors ``(N, C, H, W)``."""
        scales, start = [], 0
        for channels, height, width in self.shapes:
            end = start + channels * height * width
            scales.append(packed[:, start:end].reshape(-1, channels, height, width))
            start = end
        return scales


class Coarsest(nn.Module):
    """The last of the scales, which every classifier reads."""

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        """Tensors ``(N, C, H, W)`` to the last of them."""
        return scales[-1]


class Stem(nn.Module):
    """An image at every scale, each made from the finer one by a 3x3 convolution of stride 2."""

    def __init__(self, in_channels: int, channels: int) -> None:
        """`channels` are those of the finest scale."""
        super().__init__()
        counts = [in_channels, *(factor * channels for factor in FACTORS)]
        self.scales = nn.ModuleList(
            nn.Sequential(*convolution(counts[i], counts[i + 1], 3, stride=1 if i == 0 else 2))
            for i in range(len(FACTORS))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """``(N, C, H, W)`` to tensors ``(N, C_s, ceil(H / 2^s), ceil(W / 2^s))``."""
        scales = []
        for scale in self.scales:
            image = scale(image)
            scales.append(image)
        return scales


class Layer(nn.Module):
    """A dense layer: every scale keeps its channels and gets new ones, made from itself and from the next finer scale.

    Where there is a finer scale, half of the new channels come from it, through a stride of 2.
    """

    def __init__(self, channels: int, growth: int, *, finest: int, drop: bool) -> None:
        """What the layer reads and adds.

        Args:
            channels: Of the finest of all scales, even if it was dropped; a scale has `FACTORS` times as many.
            growth: Channels that this layer adds to the finest of all scales.
            finest: Number of scales that were dropped before.
            drop: Whether this layer drops the finest remaining scale; the next coarser one still reads it.
        """
        super().__init__()
        self.drop = drop
        self.own, self.down = nn.ModuleList(), nn.ModuleList()
        for scale in range(finest + drop, len(FACTORS)):
            has_finer = scale > finest
            new = FACTORS[scale] * growth // (2 if has_finer else 1)
            self.own.append(_bottleneck(FACTORS[scale] * channels, new, FACTORS[scale], stride=1))
            if has_finer:
                finer = FACTORS[scale - 1]
                self.down.append(_bottleneck(finer * channels, new, finer, stride=2))

    def forward(self, scales: Sequence[Tensor]) -> list[Tensor]:
        """Tensors ``(N, C, H, W)``, finest first, to as many, or one fewer, with more channels."""
        downs = [down(finer) for down, finer in zip(self.down, scales[:-1], strict=True)]
        from_finer = [[down] for down in downs] if self.drop else [[], *([down] for down in downs)]
        kept = scales[1:] if self.drop else scales
        return [
            torch.cat([scale, *finer, own(scale)], dim=1)
            for scale, finer, own in zip(kept, from_finer, self.own, strict=True)
        ]


class Transition(nn.Module):
    """A 1x1 convolution of every scale, which reduces the channels."""

    def __init__(self, in_channels: int, channels: int, *, finest: int) -> None:
        """`in_channels` and `channels` are those of the finest of all scales; `finest` counts the dropped scales."""
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Sequential(*convolution(factor * in_channels, factor * channels, 1)) for factor in FACTORS[finest:]
        )

    def forward(self, scales: Sequence[Tensor]) -> list[Tensor]:
        """Tensors ``(N, C, H, W)`` to as many with fewer channels."""
        return [reduce(scale) for reduce, scale in zip(self.scales, scales, strict=True)]


def build_msdnet(
    image_shape: Shape, classes: int, *, layers: int, width: float, cuts: Sequence[int]
) -> tuple[list[nn.Sequential], list[Shape]]:
    """The layer groups, and the shape ``(D, 1, 1)`` at each cut. A group that is not the last ends in a `Pack`.

    Args:
        image_shape: ``(C, H, W)`` of an image.
        classes: Number of logits.
        layers: Dense layers, the stem not counted. With 1, 2 or 4, the last one has finer scales that are not used.
        width: Factor on the channels of every layer.
        cuts: Layers, counted from 1, after which a group ends.

    Raises:
        ModelError: If a cut is not inside the network, or the image is too small to be halved twice.
    """
    check_size(image_shape, len(FACTORS) - 1, "msdnet")
    channels, growth = scaled(BASE, width), scaled(GROWTH, width)
    parts: list[list[nn.Module]] = []
    states: list[list[Shape]] = []
    third = -(-layers // len(FACTORS))
    for index in range(layers):
        finest, before = index // third, max(0, index - 1) // third
        part: list[nn.Module] = [Layer(channels, growth, finest=before, drop=finest > before)]
        channels += growth
        if finest > before:
            part.append(Transition(channels, channels // 2, finest=finest))
            channels //= 2
        parts.append(part)
        states.append(_shapes(image_shape, channels, finest))
    parts[0].insert(0, Stem(image_shape[0], scaled(BASE, width)))
    parts[-1] += [Coarsest(), *classifier(states[-1][-1], classes, scaled(CLASSIFIER, width))]
    groups = cut(parts, cuts, "layers")
    for place, group, following in zip(cuts, groups[:-1], groups[1:], strict=True):
        group.append(Pack(states[place - 1]))
        following.insert(0, Unpack(states[place - 1]))
    return groups, [(sum(c * h * w for c, h, w in states[place - 1]), 1, 1) for place in cuts]


def classifier(shape: Shape, classes: int, channels: int) -> list[nn.Module]:
    """Layers from the coarsest scale to logits: two 3x3 convolutions of stride 2, a global average, a linear layer.

    Args:
        shape: ``(C, H, W)`` of what it reads.
        classes: Number of logits.
        channels: Of the convolutions.
    """
    inputs, height, width = shape
    convolutions = [*convolution(inputs, channels, 3, stride=2), *convolution(channels, channels, 3, stride=2)]
    window = (-(-height // 4), -(-width // 4))
    return [*convolutions, AveragePool(window), Flatten(), nn.Linear(channels, classes)]


def build_head(shape: Shape, classes: int, design: CriticDesign) -> list[nn.Module]:
    """The critic head ``msdnet``: the classifier of main, with `design.channels` channels."""
    return classifier(shape, classes, design.channels)


def reader(group: nn.Sequential, shape: Shape) -> tuple[list[nn.Module], Shape]:
    """The first layers of a critic for the output of a group, and the shape ``(C, H, W)`` after them.

    None, unless the group packs several scales: then the critic reads the coarsest.
    """
    end = group[-1]
    return ([Unpack(end.shapes), Coarsest()], end.shapes[-1]) if isinstance(end, Pack) else ([], shape)


def _shapes(image_shape: Shape, channels: int, finest: int) -> list[Shape]:
    """``(C, H, W)`` of the remaining scales, finest first."""
    _, height, width = image_shape
    return [
        (FACTORS[scale] * channels, -(-height // 2**scale), -(-width // 2**scale))
        for scale in range(finest, len(FACTORS))
    ]


def _bottleneck(in_channels: int, channels: int, factor: int, *, stride: int) -> nn.Sequential:
    """A 1x1 convolution to `factor` times `channels`, where that is fewer than `in_channels`, and a 3x3 convolution."""
    inner = min(in_channels, factor * channels)
    return nn.Sequential(*convolution(in_channels, inner, 1), *convolution(inner, channels, 3, stride=stride))
