"""The losses of critics: from the target exit's losses, the labels and the target's logits."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lcprune.recipe.schema.critics import CriticsConfig


@dataclass(frozen=True)
class ExitOutput:
    """Logits and losses of an exit on a batch."""

    logits: Tensor
    """``(N, classes)``."""
    losses: Tensor
    """Cross-entropy of each sample in nats, ``(N,)``."""

    def detach(self) -> "ExitOutput":
        """The same values, detached."""
        return ExitOutput(self.logits.detach(), self.losses.detach())


@dataclass(frozen=True)
class CriticLoss:
    """The loss of a critic with the losses L_i and the logits z_i, whose target has L_t and z_t.

    L_ci = (1 - distill) * (a * |L_i - L_t| + (1 - a) * L_i) + distill * T^2 * KL(softmax(z_t / T) || softmax(z_i / T))

    for each sample, where a is the cascade's share, and the target is detached. With ``one_sided`` max(L_i - L_t,
    0) takes the place of |L_i - L_t|: a critic is never trained to be worse.

    Source: Lee and Lee 2018, arXiv:1805.01128, Eq. (7), for a = 1 without distillation; Hinton et al. 2015,
    arXiv:1503.02531, for the distillation.
    """

    kind: Literal["cascade", "cross_entropy", "mix"] = "cascade"
    """a is 1 with ``cascade``, 0 with ``cross_entropy``, and `mix` with ``mix``."""
    mix: float = 0.5
    one_sided: bool = False
    distill: float = 0.0
    temperature: float = 1.0
    """T."""

    @property
    def cascade_share(self) -> float:
        """The cascade's share in what is not distillation."""
        return {"cascade": 1.0, "cross_entropy": 0.0, "mix": self.mix}[self.kind]

    @property
    def waits(self) -> bool:
        """Whether the loss needs the target."""
        return self.cascade_share > 0 or self.distill > 0

    @property
    def is_weighted(self) -> bool:
        """Whether the gradient is that of the weighted cross-entropies."""
        return self.distill == 0

    def of_samples(self, own: ExitOutput, target: ExitOutput) -> Tensor:
        """L_ci of each sample in nats, ``(N,)``; differentiable by `own` only."""
        share = self.cascade_share
        gaps = own.losses - target.losses.detach()
        losses = share * (gaps.relu() if self.one_sided else gaps.abs()) + (1 - share) * own.losses
        if self.distill == 0:
            return losses
        pull = distillation_losses(own.logits, target.logits, self.temperature)
        return (1 - self.distill) * losses + self.distill * pull

    def weights(self, own: ExitOutput, target: ExitOutput) -> Tensor:
        """The derivative of L_ci by L_i of each sample, ``(N,)``; 0 for the cascade's part where both are equal."""
        sides = (own.losses.detach() - target.losses.detach()).sign()
        share = self.cascade_share
        return share * (sides.relu() if self.one_sided else sides) + (1 - share)


def critic_loss(critics: CriticsConfig) -> CriticLoss:
    """The loss of critics for a recipe."""
    return CriticLoss(
        critics.loss, critics.mix, critics.one_sided, critics.distill, temperature=critics.distill_temperature
    )


def distillation_losses(own: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(own / T)) of each sample in nats, ``(N,)``.

    The factor T^2 keeps the size of the gradient, which is otherwise proportional to 1 / T^2. Computed in float32 or
    wider.

    Source: Hinton et al. 2015, arXiv:1503.02531, Section 2.

    Args:
        own: Logits of the exit that learns, ``(N, classes)``.
        teacher: Logits of the exit that it learns from. A target: no gradient flows into it.
        temperature: T; all logits are divided by it.

    Raises:
        ValueError: If the shapes differ (torch would broadcast them).
    """
    if own.shape != teacher.shape:
        raise ValueError(f"own is {tuple(own.shape)} but its teacher is {tuple(teacher.shape)}")
    dtype = torch.promote_types(own.dtype, torch.float32)
    own_log, target_log = ((logits.to(dtype) / temperature).log_softmax(dim=1) for logits in (own, teacher.detach()))
    return temperature**2 * (target_log.exp() * (target_log - own_log)).sum(dim=1)
