"""Decoupled neural interfaces: every layer group learns from a gradient that a side module predicts.

    c_i(h_i) approximates d L_K / d h_i                                   (8)

Group i < K is trained with delta_i = c_i(h_i) instead of the true gradient, and so need not wait for the groups
after it. Its target comes from the next group alone, held constant:

    t_i = delta_{i+1} * d h_{i+1} / d h_i for i < K - 1,  t_{K-1} = d L_K / d h_{K-1}
    loss of c_i = mean over the samples of || c_i(h_i) - t_i ||^2

so that the true gradient is passed back one module at a time, as predictions get better.

Source: Jaderberg et al. 2017, arXiv:1608.05343; Lee and Lee 2018, arXiv:1805.01128, Eq. (8). A module that gets the
label as an input is the former's cDNI.

The gradient of the mean loss is 1 / N of that of a sample's own loss. A module predicts the latter, which does not
depend on the size of the batch; it is divided by N where the group is trained with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.training.methods.base import Losses, sample_losses


@dataclass(frozen=True)
class _Cut:
    """The end of a group, where a gradient is predicted."""

    output: Tensor
    """h_i with the graph of group i alone, ``(N, C, H, W)``."""
    leaf: Tensor
    """The same values, as the next group reads them."""
    predicted: Tensor
    """The gradient of each sample's own loss there, with the module's graph, ``(N, C, H, W)``."""


def build(recipe: Recipe, network: Network, iterations: int | None) -> "Dni":
    """See `Build`."""
    smoothing = recipe.train.label_smoothing
    return Dni(network, update_every=recipe.critics.update_every, label_smoothing=smoothing)


class Dni:
    """Training by synthetic gradients. The network has one exit, as that of ``method: backprop``."""

    def __init__(self, network: Network, *, update_every: int = 1, label_smoothing: float = 0.0) -> None:
        """How it learns.

        Args:
            network: With one group, made of one part more than it has synthesizers.
            update_every: The modules learn at every n-th step.
            label_smoothing: Share of the target spread over all classes.

        Raises:
            ValueError: If the network has no cuts.
        """
        (whole,) = network.groups
        parts = list(whole.children())
        if not network.synthesizers or len(parts) != len(network.synthesizers) + 1:
            raise ValueError(f"{len(network.synthesizers)} synthesizers do not fit a network of {len(parts)} parts")
        self._normalize = network.normalize
        self._parts = [*(part for pair in zip(parts, network.synthesizers, strict=False) for part in pair), parts[-1]]
        self._stages = list(zip(parts[:-1], network.synthesizers, strict=True))
        self._update_every = update_every
        self._label_smoothing = label_smoothing

    def parts(self) -> Iterator[nn.Module]:
        """See `Method`."""
        yield from self._parts

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Method`; `Losses.exits` holds main alone, ``(1,)``, `Losses.critics` the loss of every module."""
        learns = step % self._update_every == 0
        hidden = self._normalize(images)
        cuts = []
        for group, synthesizer in self._stages:
            output = group(hidden)
            predicted = synthesizer(output.detach(), labels)
            hidden = output.detach().requires_grad_()
            cuts.append(_Cut(output, hidden, predicted))
            if output.requires_grad:  # unless the first group is frozen
                output.backward(predicted.detach().to(output.dtype) / len(images))  # and into the leaf that it reads
        main = sample_losses(self._parts[-1](hidden), labels, self._label_smoothing).mean()
        main.backward()
        losses = torch.stack([_squared_errors(cut, len(images)).mean() for cut in cuts])
        if learns:
            losses.sum().backward()  # each reaches its own module alone
        return Losses(main.detach().reshape(1), losses.detach())


def _squared_errors(cut: _Cut, samples: int) -> Tensor:
    """Squared distance of the predicted gradient from the one that came from the next group, ``(N,)``."""
    if cut.leaf.grad is None:
        raise ValueError("the next group does not read its input")
    dtype = torch.promote_types(cut.predicted.dtype, torch.float32)
    target = samples * cut.leaf.grad.to(dtype)  # of the samples' own losses
    return (cut.predicted.to(dtype) - target).square().flatten(1).sum(dim=1)
