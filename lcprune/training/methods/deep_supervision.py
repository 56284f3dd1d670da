"""Joint training of all exits (deep supervision), optionally with distillation from main.

A network with main alone is trained by plain backpropagation: ``method: backprop``.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.training.methods.base import Losses, sample_losses
from lcprune.training.methods.critic_loss import distillation_losses


def build(recipe: Recipe, network: Network, iterations: int | None) -> "DeepSupervision":
    """See `Build`."""
    critics, train = recipe.critics, recipe.train
    steps = iterations or train.iterations
    decays = critics.weight_schedule == "decay"
    if decays and steps is None:
        raise ValueError("the weights of exits decay over the run: say how many iterations it has")
    sizes = max(len(set(network.image_sizes)), 1)
    of_size = critics.weights if len(network.critics) >= sizes else ()
    return DeepSupervision(
        network,
        ((*of_size, 1.0) * sizes)[:-1],  # main counts in full at every input size
        train.label_smoothing,
        distill=critics.distill,
        temperature=critics.distill_temperature,
        decay_over=steps if decays else None,
    )


class DeepSupervision:
    """Backpropagation of main's loss plus a weighted sum of the losses of all other exits.

    L = L_K + w_1 * E_1 + .. + w_K-1 * E_K-1, where E_i is the cross-entropy L_i of exit i, or with distillation
    E_i = (1 - distill) * L_i + distill * D_i, and D_i is `distillation_losses` of exit i and main. The weights are
    constant, or fall linearly to zero: at step t of N they are (1 - t / N) * w_i. With several input sizes each step
    is the mean of L over the sizes, and main of the largest size is the one that others are distilled from.

    Source: Wang et al. 2015, arXiv:1505.02496, where the weights of the auxiliary losses fall by epoch; here by
    step. Distillation from the last exit: Phuong and Lampert 2019, "Distillation-Based Training for
    Multi-Exit Architectures", ICCV.
    """

    def __init__(
        self,
        network: Network,
        weights: Sequence[float],
        label_smoothing: float,
        *,
        distill: float = 0.0,
        temperature: float = 1.0,
        decay_over: int | None = None,
    ) -> None:
        """How exits learn.

        Args:
            network: With any number of critics.
            weights: Of each exit's loss beside main's, ``(K - 1,)``.
            label_smoothing: Share of the target spread over all classes.
            distill: Share of the distillation in the loss of the other exits; the rest is cross-entropy.
            temperature: Of the distillation.
            decay_over: N, the steps in which the weights fall to zero; None: they are constant.

        Raises:
            ValueError: If the number of weights is not that of the critics.
        """
        if len(weights) != len(network.critics):
            raise ValueError(f"{len(network.critics)} critics need as many weights, not {len(weights)}")
        self._network = network
        self._sizes = max(len(set(network.image_sizes)), 1)
        self._weights = tuple(weights)
        self._label_smoothing = label_smoothing
        self._distill = distill
        self._temperature = temperature
        self._decay_over = decay_over

    def parts(self) -> Iterable[nn.Module]:
        """See `Method`."""
        return (*self._network.groups, *self._network.critics)

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Method`."""
        logits = self._network(images)
        losses = [sample_losses(of_exit, labels, self._label_smoothing).mean() for of_exit in logits]
        learned = self._with_distillation(losses, logits)
        weights = self._weights_at(step)
        weighted = [weight * loss for weight, loss in zip(weights, learned, strict=True)]
        total = sum(weighted, start=losses[-1]) / self._sizes
        total.backward()  # one backward pass through the backbone for all exits
        of_critics = torch.stack([*learned, losses[-1]]).detach()[
            :-1
        ]  # with main, because torch cannot stack an empty list
        return Losses(torch.stack(losses).detach(), of_critics)

    def _weights_at(self, step: int) -> tuple[float, ...]:
        if self._decay_over is None:
            return self._weights
        return tuple(weight * max(0.0, 1 - step / self._decay_over) for weight in self._weights)

    def _with_distillation(self, losses: Sequence[Tensor], logits: Sequence[Tensor]) -> list[Tensor]:
        """The losses E_i of the exits but main, K - 1 scalars."""
        if self._distill == 0:
            return list(losses[:-1])
        share, main = self._distill, logits[-1]
        return [
            (1 - share) * loss + share * distillation_losses(own, main, self._temperature).mean()
            for loss, own in zip(losses[:-1], logits[:-1], strict=True)
        ]
