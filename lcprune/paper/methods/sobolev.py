"""Critics that match not only a loss but its derivative by the hidden layer too.

    L_ci = l(L_i, L_t) + s * mean over the samples of || d L_i / d h_i - d L_t / d h_i ||_1

L_t is the critic's target: the loss of the next exit, L_{i+1}, whose derivative goes through group i + 1 and critic
i + 1 (`sobolev_local_critic`), or that of main, L_K, whose derivative goes through all later groups
(`sobolev_critic`). Both the target and its derivative are held constant. Groups learn as in local critic training: from
delta_i = d L_i / d h_i alone, cut off from each other. s is `critics.sobolev`.

Source: Czarnecki et al. 2017, arXiv:1706.04859; Lee and Lee 2018, arXiv:1805.01128, Table 7. The latter leaves open
which norm, which weight, and which derivative is the target of a cascaded critic's: L1 as for the losses, 1, and the
derivative of the target loss, are choices made here.

The derivative of a sample's own loss is taken as N times its row in the gradient of the batch's mean loss, which is
exact where samples do not mix. So the mean of the norms is the L1 norm of the difference of two gradients of mean
losses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.specs import METHODS
from lcprune.training.methods.base import Losses, sample_losses
from lcprune.training.methods.critic_loss import CriticLoss, ExitOutput, critic_loss


@dataclass(frozen=True)
class _Exit:
    """One exit of the forward pass."""

    critic: nn.Module
    hidden: Tensor
    """h_i with the graph of its group alone, ``(N, C_i, H_i, W_i)``."""
    leaf: Tensor
    """The same values, as the critic and the next group read them; ``.grad`` is what came back from the latter."""
    output: ExitOutput
    """Of the critic, with its graph."""


def build(recipe: Recipe, network: Network, iterations: int | None) -> "Sobolev":
    """See `Build`."""
    critics, train = recipe.critics, recipe.train
    return Sobolev(
        network,
        critic_loss(critics),
        target=METHODS[train.method].target,
        weight=critics.sobolev,
        update_every=critics.update_every,
        label_smoothing=train.label_smoothing,
    )


class Sobolev:
    """Local critic training or critic training, with derivatives matched as well."""

    def __init__(
        self,
        network: Network,
        loss: CriticLoss,
        *,
        target: Literal["next", "main"],
        weight: float = 1.0,
        update_every: int = 1,
        label_smoothing: float = 0.0,
    ) -> None:
        """How critics learn.

        Args:
            network: With at least one critic.
            loss: l, of every critic.
            target: Whose loss a critic estimates: that of the next exit or of main.
            weight: s, of the derivatives.
            update_every: The critics learn at every n-th step.
            label_smoothing: Share of the target spread over all classes.
        """
        self._normalize = network.normalize
        self._groups = list(network.groups)
        self._critics = network.critics
        self._loss = loss
        self._target = target
        self._weight = weight
        self._update_every = update_every
        self._label_smoothing = label_smoothing

    def parts(self) -> Iterator[nn.Module]:
        """See `Method`. Compiled parts cannot be differentiated twice, so critics are not among them.

        Neither are groups that two gradients go through.
        """
        yield from self._groups[:-1] if self._target == "next" else self._groups[:1]
        yield self._groups[-1]

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Method`. All groups run first; then derivatives go from the last one to the first."""
        learns = step % self._update_every == 0
        exits, main = self._forward(images, labels)
        main.losses.mean().backward()
        slope = _arrived(exits[-1])  # d L_t / d h_i
        target = main.detach()
        critic_losses = []
        for index in reversed(range(len(exits))):
            own = exits[index]
            (delta,) = torch.autograd.grad(own.output.losses.mean(), own.leaf, create_graph=learns)
            critic_losses.append(self._learn(own, target, delta, slope, learns))
            before = exits[index - 1] if index else None
            if before is not None and self._target == "main":  # past this group, not past its critic
                (slope,) = torch.autograd.grad(own.hidden, before.leaf, slope, retain_graph=True)
            if own.hidden.requires_grad:  # unless the first group is frozen
                own.hidden.backward(delta.detach())
            if before is not None and self._target == "next":
                slope, target = _arrived(before), own.output.detach()
        losses = torch.stack([*(own.output.losses for own in exits), main.losses])
        return Losses(losses.detach().mean(dim=1), torch.stack(critic_losses[::-1]))

    def _forward(self, images: Tensor, labels: Tensor) -> tuple[list[_Exit], ExitOutput]:
        """All exits with the graphs of their own group and critic, and main."""
        leaf = self._normalize(images)
        exits = []
        for group, critic in zip(self._groups[:-1], self._critics, strict=True):
            hidden = group(leaf)
            leaf = hidden.detach().requires_grad_()
            exits.append(_Exit(critic, hidden, leaf, self._output(critic(leaf), labels)))
        return exits, self._output(self._groups[-1](leaf), labels)

    def _output(self, logits: Tensor, labels: Tensor) -> ExitOutput:
        return ExitOutput(logits, sample_losses(logits, labels, self._label_smoothing))

    def _learn(self, own: _Exit, target: ExitOutput, delta: Tensor, slope: Tensor, learns: bool) -> Tensor:
        """The critic's gradients, if it learns at this step; its mean loss."""
        dtype = torch.promote_types(delta.dtype, torch.float32)
        mismatch = (delta.to(dtype) - slope.to(dtype)).abs().sum()
        loss = self._loss.of_samples(own.output, target).mean() + self._weight * mismatch
        if learns:
            loss.backward(inputs=list(own.critic.parameters()))
        return loss.detach()


def _arrived(own: _Exit) -> Tensor:
    """The gradient that came back to an exit's hidden layer from the group behind it."""
    if own.leaf.grad is None:
        raise ValueError("the next group does not read its input")
    return own.leaf.grad
