"""Logits of every exit on a split."""

import torch
from torch import Tensor

from lcprune.data.loaders import eval_batches
from lcprune.data.sources import Split
from lcprune.models import Network
from lcprune.models.network import eval_mode

EVAL_BATCH = 500
EVAL_PIXELS = EVAL_BATCH * 64 * 64
"""Pixels in a batch, at most: batches of larger images are smaller."""


def predict_logits(network: Network, split: Split, device: torch.device, channels_last: bool) -> Tensor:
    """Logits of every exit in eval mode on the CPU, ``(K, N, classes)`` float32; restores the mode."""
    with eval_mode(network), torch.inference_mode():
        batches = [
            torch.stack(network(images)).float().cpu()
            for images, _ in eval_batches(split, eval_batch(split), device, channels_last)
        ]
    return torch.cat(batches, dim=1)


def eval_batch(split: Split) -> int:
    """Number of images of `split` in an evaluation batch."""
    height, width = (int(side) for side in split.images.shape[2:])
    return max(1, min(EVAL_BATCH, EVAL_PIXELS // (height * width)))
