"""Local critic training: every layer group learns from the loss that its own critic estimates (the paper's method).

Source: Lee and Lee 2018, arXiv:1805.01128, Eq. (1) to (7).

The gradients of a step. With h_i the output of group i, L_i its critic's cross-entropy and w_j a critic's weight on
sample j, two gradients are wanted from critic i: delta_i = d mean_j(L_i^j) / d h_i for the group (Eq. 5), and
d mean_j(w_j L_i^j) / d(critic's weights) for the critic; w_j = sign(L_i^j - L_{i+1}^j) for the L1 loss of Eq. (7).
A critic that treats each sample by itself gives both in one backward pass: back-propagate mean_j(w_j L_i^j); the row of
sample j that arrives at h_i is then w_j delta_i^j, and a division by w_j leaves delta_i. A weight of zero would lose
that row, so it becomes 2^-60: nothing to the critic, and divided out again for the group.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lcprune.models import Network, mixes_samples
from lcprune.training.methods.base import Losses, sample_losses

ALMOST_ZERO = 2.0**-60
"""Stands for a weight of zero; a power of two, so that dividing it out again is exact."""

CriticLoss = Literal["cascade", "cross_entropy", "mix"]


@dataclass(frozen=True)
class _Exit:
    """One exit of the forward pass, waiting for the loss of the next one."""

    hidden: Tensor
    """Output of the group, with the group's graph, ``(N, C, H, W)``."""
    leaf: Tensor
    """The same values as the critic reads them, cut off from the group."""
    losses: Tensor
    """Cross-entropy of each sample, with the critic's graph, ``(N,)``."""
    critic: nn.Module


class LocalCritic:
    """Local critic training, with one backward pass per critic and none from a later group into an earlier one."""

    def __init__(
        self,
        network: Network,
        *,
        loss: CriticLoss = "cascade",
        mix: float = 0.5,
        update_every: int = 1,
        label_smoothing: float = 0.0,
    ) -> None:
        """How critics learn.

        Args:
            network: With at least one critic.
            loss: ``cascade`` is Eq. (7), L1 per sample; ``cross_entropy`` the critic's own; ``mix`` both.
            mix: The cascade's share in ``mix``.
            update_every: The critics learn at every n-th step.
            label_smoothing: Share of the target spread over all classes.
        """
        self._network = network
        self._cascade_share = {"cascade": 1.0, "cross_entropy": 0.0, "mix": mix}[loss]
        self._update_every = update_every
        self._label_smoothing = label_smoothing

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Method`. A group's backward pass runs as soon as the next exit's losses are known."""
        critics_learn = step % self._update_every == 0
        exit_losses, critic_losses = [], []
        hidden = self._network.normalize(images)
        waiting: _Exit | None = None
        for group, critic in zip(self._network.groups[:-1], self._network.critics, strict=True):
            hidden = group(hidden)  # (N, C_i, H_i, W_i), with the graph of this group alone
            leaf = hidden.detach().requires_grad_()
            losses = sample_losses(critic(leaf), labels, self._label_smoothing)  # (N,)
            exit_losses.append(losses.detach())
            if waiting is not None:
                critic_losses.append(self._learn(waiting, losses.detach(), critics_learn))
            waiting = _Exit(hidden, leaf, losses, critic)
            hidden = hidden.detach()
        main_losses = sample_losses(self._network.groups[-1](hidden), labels, self._label_smoothing)
        exit_losses.append(main_losses.detach())
        if waiting is not None:
            critic_losses.append(self._learn(waiting, main_losses.detach(), critics_learn))
        main_losses.mean().backward()
        return Losses(torch.stack(exit_losses).mean(dim=1), torch.stack(critic_losses))

    def _learn(self, own: _Exit, deeper: Tensor, critic_learns: bool) -> Tensor:
        """Gradients of one group and, if it learns, of its critic; the critic's mean loss."""
        gap = own.losses.detach() - deeper
        loss = self._cascade_share * gap.abs().mean() + (1 - self._cascade_share) * own.losses.detach().mean()
        if not critic_learns:
            (delta,) = torch.autograd.grad(own.losses.mean(), own.leaf)
        elif self._cascade_share == 0:
            own.losses.mean().backward()  # every weight is 1
            delta = _gradient(own.leaf)
        else:
            weights = self._cascade_share * gap.sign() + (1 - self._cascade_share)
            delta = _two_passes(own, weights) if mixes_samples(own.critic) else _one_pass(own, weights)
        own.hidden.backward(delta)
        return loss


def _one_pass(own: _Exit, weights: Tensor) -> Tensor:
    """delta_i, ``(N, C, H, W)``; the critic's gradient of the losses weighted by `weights`, ``(N,)``, is left in it."""
    weights = torch.where(weights == 0, ALMOST_ZERO, weights)
    (own.losses * weights).mean().backward()
    return _gradient(own.leaf).mul_(weights.reciprocal().reshape(-1, 1, 1, 1))


def _two_passes(own: _Exit, weights: Tensor) -> Tensor:
    """The same where the critic mixes samples, so that their gradients cannot be told apart."""
    (delta,) = torch.autograd.grad(own.losses.mean(), own.leaf, retain_graph=True)
    (own.losses * weights).mean().backward(inputs=list(own.critic.parameters()))
    return delta


def _gradient(leaf: Tensor) -> Tensor:
    if leaf.grad is None:
        raise ValueError("the critic does not read its input")
    return leaf.grad
