"""A frozen first layer that whitens patches of the image: every principal direction gets unit variance.

Source: Page 2018, "How to train your ResNet", with the patches of 2x2 pixels and the negatives of Jordan 2024,
arXiv:2404.00498. Theirs is followed by GELU and has a bias that is trained for a while; here it is followed by ReLU, as
every convolution of the backbone is, and nothing in it is trained. Each direction is used with both signs, so that
ReLU loses no information.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

PATCH = 2
"""Height and width of the patches, in pixels."""
EPSILON = 5e-4
"""Added to the variance of a direction before it is scaled to 1, so that noise is not amplified; as in the source."""
IMAGES = 5000
"""Largest number of images from which the directions are computed; as in the source."""
CHUNK = 500


class Whitening(nn.Module):
    """The principal directions of 2x2 patches and their negatives, each scaled to unit variance, then ReLU.

    The directions are in the lower right corner of 3x3 kernels that are zero elsewhere: so symmetric padding, which
    every runtime supports, keeps the size. Until `fit` is called, the weights are meaningless.
    """

    def __init__(self, in_channels: int) -> None:
        """`in_channels` of an image; each gives 4 directions and 4 negatives."""
        super().__init__()
        self.out_channels = 2 * in_channels * PATCH**2
        self.convolution = nn.Conv2d(in_channels, self.out_channels, 3, padding=1, bias=False).requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, 8 * C, H, W)``; no gradient flows to it or through it."""
        return F.relu(self.convolution(image), inplace=True)

    @torch.no_grad()
    def fit(self, images: NDArray[np.uint8], normalize: nn.Module) -> None:
        """Computes the directions from the first `IMAGES` of `images` and sets the weights.

        The sums are computed on the CPU, so that the weights are the same on every device.

        Args:
            images: The training images ``(N, C, H, W)``, 0 to 255.
            normalize: Applied to an image in 0..1 before this layer: ``Network.normalize``.
        """
        values, vectors = torch.linalg.eigh(_second_moments(images[:IMAGES], normalize))
        scaled = (vectors / (values.clamp(min=0) + EPSILON).sqrt()).T.flip(0)  # (C * 4, C * 4), strongest first
        directions = scaled.reshape(len(scaled), -1, PATCH, PATCH)
        kernels = torch.zeros(self.convolution.weight.shape, dtype=torch.float64)
        kernels[:, :, -PATCH:, -PATCH:] = torch.cat([directions, -directions])
        self.convolution.weight.copy_(kernels)


def _second_moments(images: NDArray[np.uint8], normalize: nn.Module) -> Tensor:
    """Mean products of the pixels of a patch, ``(C * 4, C * 4)``: the covariance, as normalised pixels average to 0."""
    device = next((buffer.device for buffer in normalize.buffers()), torch.device("cpu"))
    total, patches = torch.zeros(1, dtype=torch.float64), 0
    for start in range(0, len(images), CHUNK):
        pixels = torch.from_numpy(images[start : start + CHUNK]).to(device).float() / 255
        unfolded = F.unfold(normalize(pixels).cpu(), PATCH)  # (n, C * 4, patches of an image)
        total = total + (unfolded @ unfolded.mT).double().sum(dim=0)
        patches += unfolded.shape[0] * unfolded.shape[2]
    return total / patches
