"""Backpropagation through the whole network, by the loss of main alone."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.training.methods.base import Losses, Wrap, as_it_is, sample_losses


def build(recipe: Recipe, network: Network, iterations: int | None, wrap: Wrap) -> "Backprop":
    """See `Build`."""
    return Backprop(network, recipe.train.label_smoothing, wrap=wrap)


class Backprop:
    """Trains groups 1..K by the loss of main. Critics, if there are any, are left alone."""

    def __init__(self, network: Network, label_smoothing: float, *, wrap: Wrap = as_it_is) -> None:
        """`label_smoothing` is the share of the target spread over all classes; `wrap` goes around every group."""
        self._network = network
        self._main = nn.Sequential(network.normalize, *(wrap(group) for group in network.groups))
        self._label_smoothing = label_smoothing

    def parts(self) -> Iterable[nn.Module]:
        """See `Method`."""
        return self._network.groups

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Method`; `Losses.exits` holds main alone, ``(1,)``."""
        loss = sample_losses(self._main(images), labels, self._label_smoothing).mean()
        loss.backward()
        return Losses(loss.detach().reshape(1), torch.zeros(0, device=loss.device))
