"""What a training method is: it puts gradients where they belong, and says what the losses were."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcprune.models import Network
from lcprune.recipe import Recipe

Wrap = Callable[[nn.Module], nn.Module]
"""Puts something around a part that a method calls, such as what averages its gradients over several processes."""


def as_it_is(part: nn.Module) -> nn.Module:
    """The part itself: a `Wrap` that does nothing."""
    return part


@dataclass(frozen=True)
class Losses:
    """Mean losses of one step, on the device and without a graph."""

    exits: Tensor
    """Cross-entropy of every exit, in nats, ``(K,)``."""
    critics: Tensor
    """What every critic learns from, in nats, ``(K - 1,)``."""


class Method(Protocol):
    """One way to train a network."""

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        """Adds this batch's gradients to ``.grad`` of everything that the method trains at this step.

        Args:
            images: In 0..1, ``(N, C, H, W)``.
            labels: Class indices, ``(N,)``, or weighted shares of the classes, ``(N, classes)``; see `sample_losses`.
            step: Number of the step, from 0.
        """
        ...

    def parts(self) -> Iterable[nn.Module]:
        """The modules that `backward` calls, without what is put around them, which may be compiled one by one."""
        ...


class Build(Protocol):
    """What the module of a method offers as ``build``; see `lcprune.training.methods.build_method`."""

    def __call__(self, recipe: Recipe, network: Network, iterations: int | None, wrap: Wrap) -> Method:
        """The method, with what the recipe says."""
        ...


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
