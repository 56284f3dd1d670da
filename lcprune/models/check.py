"""A forward pass before a run begins: an error of the first step is found here, and has a fix."""

import copy

import torch
from torch import nn

from lcprune.errors import ModelError
from lcprune.models.critics import mixes_samples
from lcprune.models.network import Network


def check_forward_pass(network: Network, image_shape: tuple[int, int, int], batch_size: int) -> None:
    """Passes one batch of black images ``(C, H, W)`` through a copy of `network`, as training would.

    Raises:
        ModelError: If that fails.
    """
    images = torch.zeros(min(batch_size, 2), *image_shape)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        tried: nn.Module = copy.deepcopy(network).train()
        try:
            tried(images)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            if batch_size == 1 and mixes_samples(network) and "more than 1 value per channel" in reason:
                raise ModelError(
                    "data.batch_size is 1, and BatchNorm needs two values per channel at least where the image has "
                    "become 1x1",
                    "set data.batch_size: 2 or more",
                ) from None
            shape = "x".join(str(size) for size in image_shape)
            raise ModelError(
                f"the network cannot take images of {shape}: {reason}",
                "take larger images (data.image_size), or a backbone that reduces their size less often",
            ) from None
