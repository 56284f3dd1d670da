"""Learning from the logits of another exit, instead of from the labels."""

import torch
from torch import Tensor


def distillation_losses(own: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(own / T)) of each sample in nats, ``(N,)``.

    The factor T^2 keeps the gradient's size: it shrinks by 1 / T^2 where T grows. Always in float32 (or wider).

    Source: Hinton et al. 2015, arXiv:1503.02531, Section 2.

    Args:
        own: Logits of the exit that learns, ``(N, classes)``.
        teacher: Those of the exit that it learns from. A target: no gradient flows into it.
        temperature: T, which both are divided by.

    Raises:
        ValueError: If the shapes differ (torch would broadcast them).
    """
    if own.shape != teacher.shape:
        raise ValueError(f"own is {tuple(own.shape)} but its teacher is {tuple(teacher.shape)}")
    dtype = torch.promote_types(own.dtype, torch.float32)
    said, wanted = ((logits.to(dtype) / temperature).log_softmax(dim=1) for logits in (own, teacher.detach()))
    return temperature**2 * (wanted.exp() * (wanted - said)).sum(dim=1)
