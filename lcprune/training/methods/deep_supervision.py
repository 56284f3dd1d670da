"""Joint training of all exits (deep supervision)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lcprune.models import Network
from lcprune.training.methods.base import Losses, sample_losses


class DeepSupervision:
    """Backpropagation of main's loss plus a weighted sum of the losses of all other exits.

    Source: Wang et al. 2015, arXiv:1505.02496, with the weight of the auxiliary losses held constant.
    """

    def __init__(self, network: Network, weight: float, label_smoothing: float) -> None:
        """`weight` is that of every exit's loss beside main's; `label_smoothing` is spread over all classes."""
        self._network = network
        self._weight = weight
        self._label_smoothing = label_smoothing

    def parts(self) -> Iterable[nn.Module]:
        """See `Method`."""
        return (*self._network.groups, *self._network.critics)

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Method`."""
        losses = [sample_losses(logits, labels, self._label_smoothing).mean() for logits in self._network(images)]
        total = losses[-1] + self._weight * sum(losses[:-1])
        total.backward()
        exits = torch.stack(losses).detach()
        return Losses(exits, exits[:-1])
