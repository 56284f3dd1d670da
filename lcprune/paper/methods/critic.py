"""Critic training: every critic estimates the loss of main itself, without the cascade.

    L_ci = l(L_i, L_K)        in the place of Eq. (7), L_ci = l(L_i, L_{i+1})

Everything else is as in local critic training: group i is trained with delta_i = d L_i / d h_i (Eq. 5), and l is what
`critics.loss` says, with main in the place of the next exit. Every critic has to wait for main.

Source: Czarnecki et al. 2017, arXiv:1706.04859, where a critic predicts the loss of a network from a hidden layer; Lee
and Lee 2018, arXiv:1805.01128, Section 3.1, which compares with it and calls its critics modules "to estimate the main
network's output". They are taken to be of the same kind as the paper's own: the loss of a critic's logits is its
estimate.
"""

from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from lcprune.models import Network
from lcprune.training.methods.base import Losses, Wrap, as_it_is
from lcprune.training.methods.critic_loss import CriticLoss
from lcprune.training.methods.local_critic import LocalCritic


class CriticTraining:
    """Critic training, with no backward pass from a later group into an earlier one."""

    def __init__(
        self,
        network: Network,
        loss: CriticLoss,
        *,
        update_every: int = 1,
        label_smoothing: float = 0.0,
        memory: Literal["fast", "lean"] = "fast",
        overlap: bool = False,
        wrap: Wrap = as_it_is,
    ) -> None:
        """How critics learn: see `LocalCritic`. ``memory="fast"`` keeps what all groups keep until main has spoken."""
        self._steps = LocalCritic(
            network,
            loss,
            target="main",
            update_every=update_every,
            label_smoothing=label_smoothing,
            memory=memory,
            overlap=overlap,
            wrap=wrap,
        )

    def parts(self) -> Iterable[nn.Module]:
        """See `Method`."""
        return self._steps.parts()

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Method`."""
        return self._steps.backward(images, labels, step)
