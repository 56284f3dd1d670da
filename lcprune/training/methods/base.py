"""The interface of a training method: it computes gradients and returns the losses."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcprune.models import Network
from lcprune.recipe import Recipe


@dataclass(frozen=True)
class Losses:
    """Mean losses of one step, on the device, detached."""

    exits: Tensor
    """Cross-entropy of every exit, in nats, ``(K,)``."""
    critics: Tensor
    """Losses that the critics learn from, in nats, ``(K - 1,)``."""


class Method(Protocol):
    """A method to train a network."""

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """Adds this batch's gradients to ``.grad`` of all weights that the method trains at this step.

        Random numbers come from torch's default generator on the device of the images: it is seeded, stored in
        checkpoints, and differs between the processes. With `train.cuda_graph` the step is recorded once and replayed,
        so nothing may depend on `step` or on values in Python; a method for which it does is refused there by
        `lcprune.recipe.schema.recipe`.

        Args:
            images: In 0..1, ``(N, C, H, W)``.
            labels: Class indices, ``(N,)``, or weighted shares of the classes, ``(N, classes)``; see `sample_losses`.
            step: Number of the step, from 0.
        """
        ...

    def parts(self) -> Iterable[nn.Module]:
        """The modules that `backward` calls, which may be compiled one by one."""
        ...


Build = Callable[[Recipe, Network, int | None], Method]
"""The function ``build`` of a method's module; see `lcprune.training.methods.build_method`.

The number of classes is that of the logits, ``logits.shape[1]``: neither the recipe nor the network has it.
"""


def sample_losses(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of each sample in nats: ``(N, classes)`` and ``(N,)`` to ``(N,)``.

    Always in float32 (or wider): in bfloat16 nearly all confident samples would tie. Labels may be the shares of the
    classes in each sample times the weight of its loss, ``(N, classes)``: their sum is the weight.
    """
    logits = logits.float() if logits.itemsize < 4 else logits
    if labels.is_floating_point():
        weights = labels.sum(dim=1)
        shares = labels / weights.clamp(min=torch.finfo(labels.dtype).tiny)[:, None]
        return weights * F.cross_entropy(logits, shares, reduction="none", label_smoothing=label_smoothing)
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
