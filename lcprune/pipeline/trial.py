"""A trial of a network before a run begins: what would end it at the first step ends it here, with a mend."""

import copy

import torch
from torch import nn

from lcprune.errors import ModelError
from lcprune.models import Network
from lcprune.pipeline.stored import DataFacts


def refuse_what_cannot_train(network: Network, facts: DataFacts, batch_size: int) -> None:
    """Passes one batch of black images through a copy of `network`, as training would.

    Raises:
        ModelError: If that fails.
    """
    images = torch.zeros(min(batch_size, 2), *facts.image_shape)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        trial = copy.deepcopy(network).train()
        try:
            trial(images)
        except (RuntimeError, ValueError) as error:
            raise _refusal(trial, facts, batch_size, str(error).strip().splitlines()[0]) from None


def _refusal(network: Network, facts: DataFacts, batch_size: int, reason: str) -> ModelError:
    mixes = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())
    if batch_size == 1 and mixes and "more than 1 value per channel" in reason:
        return ModelError(
            "data.batch_size is 1, and BatchNorm needs two values per channel at least where the image has become 1x1",
            "set data.batch_size: 2 or more",
        )
    shape = "x".join(str(size) for size in facts.image_shape)
    return ModelError(
        f"the network cannot take images of {shape}: {reason}",
        "take larger images (data.image_size), or a trunk that makes them smaller less often",
    )
