"""Layers whose gradients have the memory format of their input; in eval mode they are those of torch."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Flatten(nn.Flatten):
    """``(N, C, H, W)`` to ``(N, C * H * W)``; the gradient has the memory format of the input.

    The gradient of `nn.Flatten` is contiguous. If the input is channels_last, the ReLU before it gets a gradient and an
    output of different formats, for which torch has no vectorised kernel: six times as slow as the copy made here.
    """

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        is_contiguous = input.is_contiguous()
        if self.training and input.requires_grad and not is_contiguous:
            flat: Tensor = _FlattenChannelsLast.apply(input)
            return flat
        return super().forward(input)


class AveragePool(nn.AvgPool2d):
    """Average over windows that do not overlap; training saves nothing of the input.

    `nn.AvgPool2d` saves the whole input for its shape, and fills the gradient with zeros before it adds to it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C, H / h, W / w)``, for windows of h x w that divide H and W."""
        if self.training and input.requires_grad:
            pooled: Tensor = _AveragePool.apply(input, self.kernel_size)
            return pooled
        return super().forward(input)


class _FlattenChannelsLast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        ctx.shape = input.shape
        return input.flatten(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.reshape(ctx.shape).contiguous(memory_format=torch.channels_last)


class _AveragePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, window: tuple[int, int]) -> Tensor:
        ctx.window, ctx.channels_last = window, not input.is_contiguous()
        return F.avg_pool2d(input, window)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _spread(gradient / math.prod(ctx.window), ctx.window, ctx.channels_last), None


def _spread(values: Tensor, window: tuple[int, int], channels_last: bool) -> Tensor:
    """Repeats each value over its window: ``(N, C, H, W)`` to ``(N, C, H * h, W * w)``, in the format asked for."""
    down, across = window
    if not channels_last:
        return values.repeat_interleave(across, 3).repeat_interleave(down, 2)
    batch, channels, height, width = values.shape
    windows = values.permute(0, 2, 3, 1)[:, :, None, :, None].expand(batch, height, down, width, across, channels)
    return windows.reshape(batch, height * down, width * across, channels).contiguous().permute(0, 3, 1, 2)
