"""Joint training of all exits (deep supervision), with main as their teacher if asked for."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lcprune.models import Network
from lcprune.training.methods.base import Losses, sample_losses


class DeepSupervision:
    """Backpropagation of main's loss plus a weighted sum of the losses of all other exits.

    L = L_K + w_1 * E_1 + .. + w_K-1 * E_K-1, where E_i is the cross-entropy L_i of exit i, or with distillation
    E_i = (1 - distill) * L_i + distill * D_i, and D_i is `distillation_losses` of exit i and main.

    Source: Wang et al. 2015, arXiv:1505.02496, with the weights of the auxiliary losses held constant. Exits that learn
    from the last one: Phuong and Lampert 2019, "Distillation-Based Training for Multi-Exit Architectures", ICCV.
    """

    def __init__(
        self,
        network: Network,
        weights: Sequence[float],
        label_smoothing: float,
        *,
        distill: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        """How exits learn.

        Args:
            network: With any number of critics.
            weights: Of each exit's loss beside main's, ``(K - 1,)``.
            label_smoothing: Share of the target spread over all classes.
            distill: Main's share in what the other exits learn from; the rest is the labels'.
            temperature: Of the distillation.

        Raises:
            ValueError: If there is not one weight for every critic.
        """
        if len(weights) != len(network.critics):
            raise ValueError(f"{len(network.critics)} critics need as many weights, not {len(weights)}")
        self._network = network
        self._weights = tuple(weights)
        self._label_smoothing = label_smoothing
        self._distill = distill
        self._temperature = temperature

    def parts(self) -> Iterable[nn.Module]:
        """See `Method`."""
        return (*self._network.groups, *self._network.critics)

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """See `Method`."""
        logits = self._network(images)
        losses = [sample_losses(of_exit, labels, self._label_smoothing).mean() for of_exit in logits]
        learned = self._with_distillation(losses, logits)
        weighted = [weight * loss for weight, loss in zip(self._weights, learned, strict=True)]
        sum(weighted, start=losses[-1]).backward()  # one pass back through the trunk for all exits
        of_critics = torch.stack([*learned, losses[-1]]).detach()[:-1]  # main in it: torch stacks no empty list
        return Losses(torch.stack(losses).detach(), of_critics)

    def _with_distillation(self, losses: Sequence[Tensor], logits: Sequence[Tensor]) -> list[Tensor]:
        """What each exit but main learns from, K - 1 scalars."""
        if self._distill == 0:
            return list(losses[:-1])
        share, main = self._distill, logits[-1]
        return [
            (1 - share) * loss + share * distillation_losses(own, main, self._temperature).mean()
            for loss, own in zip(losses[:-1], logits[:-1], strict=True)
        ]


def distillation_losses(own: Tensor, main: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(main / T) || softmax(own / T)) of each sample in nats, ``(N,)``.

    The factor T^2 keeps the gradient's size: it shrinks by 1 / T^2 where T grows. Always in float32 (or wider).

    Source: Hinton et al. 2015, arXiv:1503.02531, Section 2.

    Args:
        own: Logits of the exit that learns, ``(N, classes)``.
        main: Those of its teacher. A target: no gradient flows into it.
        temperature: T, which both are divided by.

    Raises:
        ValueError: If the shapes differ (torch would broadcast them).
    """
    if own.shape != main.shape:
        raise ValueError(f"own is {tuple(own.shape)} but main is {tuple(main.shape)}")
    dtype = torch.promote_types(own.dtype, torch.float32)
    said, wanted = ((logits.to(dtype) / temperature).log_softmax(dim=1) for logits in (own, main.detach()))
    return temperature**2 * (wanted.exp() * (wanted - said)).sum(dim=1)
