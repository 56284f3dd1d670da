"""Modules that predict the gradient at a hidden layer (Eq. 8 of the paper)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcprune.models.critics import CriticDesign
from lcprune.models.trunk import Shape, convolution


class Synthesizer(nn.Module):
    """3x3 convolutions with ReLU, then a 3x3 convolution that has the shape of the hidden layer.

    Source: Jaderberg et al. 2017, arXiv:1608.05343, with the size of the paper: a convolution and an output layer.
    """

    def __init__(self, shape: Shape, design: CriticDesign, label_channels: int) -> None:
        """Builds the convolutions.

        Args:
            shape: Of the hidden layer, ``(C, H, W)``.
            design: `depth`, `channels`, `kernel` and `batch_norm` of the convolutions before the output layer.
            label_channels: Number of classes if the module gets the label of an image, else 0.
        """
        super().__init__()
        self._label_channels = label_channels
        channels = shape[0] + label_channels
        layers: list[nn.Module] = []
        for _ in range(design.depth):
            layers += convolution(channels, design.channels, design.kernel, batch_norm=design.batch_norm)
            channels = design.channels
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Conv2d(channels, shape[0], 3, padding=1)

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """A gradient for each sample: ``(N, C, H, W)`` and class indices ``(N,)`` to ``(N, C, H, W)``."""
        if self._label_channels:
            one_hot = F.one_hot(labels, self._label_channels).to(hidden.dtype)  # (N, classes)
            maps = one_hot[:, :, None, None].expand(-1, -1, *hidden.shape[2:])
            hidden = torch.cat([hidden, maps], dim=1)  # (N, C + classes, H, W)
        gradient: Tensor = self.output(self.hidden(hidden))
        return gradient

    def silence(self) -> None:
        """Makes every prediction zero, so that a run starts without wrong gradients."""
        nn.init.zeros_(self.output.weight)
        if self.output.bias is not None:
            nn.init.zeros_(self.output.bias)
