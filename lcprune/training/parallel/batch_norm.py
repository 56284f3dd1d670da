"""BatchNorm whose statistics are those of the whole batch, of which each process has a share.

torch's SyncBatchNorm does the same on GPUs alone. Here every process hears of the means and variances of all; the whole
variance is the mean of theirs and of the squared deviations of their means. The difference of E[x^2] and E[x]^2 would
lose digits.

With x_hat = (x - mean) / std, M values per channel over all processes, and g the gradient by y = w * x_hat + b, the
gradient by x is w / std * (g - sum(g) / M - x_hat * sum(g * x_hat) / M), sums over all processes. (Ioffe and Szegedy
2015, arXiv:1502.03167.)
"""

import copy
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from lcprune.training.parallel.collectives import start_gathering
from lcprune.training.parallel.waiting import wait


class _Ranks:
    """The processes that share a batch. A copy of a layer has the same ones."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self.size = dist.get_world_size(group)

    def __deepcopy__(self, _: Any) -> "_Ranks":
        return self

    def gather(self, values: Tensor) -> Tensor:
        """What every process has, first by process: ``(size, *shape)``; one message, which is what takes the time."""
        everyone = values.new_empty(self.size * values.numel())
        wait(start_gathering(everyone, values.reshape(-1), self.group), values.device)
        return everyone.view(self.size, *values.shape)


class ReducedBatchNorm(_BatchNorm):
    """BatchNorm of a batch that several processes share evenly; in eval mode it is torch's own."""

    def __init__(self, layer: _BatchNorm, group: ProcessGroup) -> None:
        """Takes over the weights and statistics of `layer`."""
        super().__init__(layer.num_features, layer.eps, layer.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats = layer.affine, layer.track_running_stats
        self._parameters = copy.copy(layer._parameters)  # in the same order, under the same names
        self._buffers = copy.copy(layer._buffers)
        self.training = layer.training
        self._ranks = _Ranks(group)

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C)``, ``(N, C, L)`` or ``(N, C, H, W)`` to the same shape; N is the share of this process."""
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        mean, variance = _statistics(input, self._ranks)
        if self.training:
            self._keep(mean, variance, self._ranks.size * input.numel() // input.shape[1])
        normalized: Tensor = _Normalize.apply(input, self.weight, self.bias, mean, variance, self.eps, self._ranks)
        return normalized

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"an input of {input.dim()} dimensions has no channels")

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running statistics, as torch does: by `momentum`, or to the plain mean where that is None."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (count / max(1, count - 1))
        for kept, now in ((self.running_mean, mean), (self.running_var, unbiased)):
            kept.lerp_(now.to(kept.dtype), share)


def reduce_statistics(network: nn.Module, group: ProcessGroup) -> None:
    """Replaces every BatchNorm inside by a `ReducedBatchNorm` with the same weights and statistics, in place.

    Args:
        network: Not itself a BatchNorm.
        group: The processes that share every batch, evenly; all of them call the network in training mode together.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(parent, name, ReducedBatchNorm(child, group))


@torch.no_grad()
def _statistics(input: Tensor, ranks: _Ranks) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel over the whole batch, ``(C,)`` each, in float32 or wider."""
    wide = input.float() if input.itemsize < 4 else input
    own = torch.stack(torch.batch_norm_update_stats(wide, None, None, 0.0))
    means, variances = ranks.gather(own).unbind(1)
    between, mean = torch.var_mean(means, 0, correction=0)
    return mean, variances.mean(0) + between


class _Normalize(torch.autograd.Function):
    """(x - mean) / std * weight + bias, where mean and std depend on the x of all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        ranks: _Ranks,
    ) -> Tensor:
        ctx.save_for_backward(input, weight, bias, mean, variance)
        ctx.eps, ctx.ranks = eps, ranks
        return F.batch_norm(input, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, bias, mean, variance = ctx.saved_tensors
        (gradient,) = gradients
        if torch.is_grad_enabled():  # the gradient shall be differentiated in its turn
            return (*_differentiable(input, weight, bias, gradient, ctx.eps, ctx.ranks), None, None, None, None)
        of_input, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, input, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        if ctx.needs_input_grad[0]:
            _finish(of_input, input, weight, mean, (variance + ctx.eps).rsqrt(), of_weight, of_bias, ctx.ranks)
        own = (of_weight, of_bias) if weight is not None else (None, None)
        return (of_input, *own, None, None, None, None)


def _finish(
    of_input: Tensor,
    input: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    inverse_std: Tensor,
    of_weight: Tensor,
    of_bias: Tensor,
    ranks: _Ranks,
) -> None:
    """Turns the gradient for constant statistics into the whole one, in place.

    Args:
        of_input: w / std * g.
        input: x.
        weight: w, ``(C,)``; None is 1.
        mean: ``(C,)``.
        inverse_std: 1 / std, ``(C,)``.
        of_weight: sum(g * x_hat) of this process, ``(C,)``.
        of_bias: sum(g) of this process, ``(C,)``.
        ranks: The processes.
    """
    count = input.numel() // input.shape[1]
    means = ranks.gather(torch.stack([of_weight, of_bias]).to(mean.dtype)).mean(0) / count
    scale = inverse_std if weight is None else inverse_std * weight
    slope = -scale * inverse_std * means[0]
    shape = (1, -1, *(1 for _ in input.shape[2:]))
    constant = -scale * means[1] - slope * mean
    of_input.addcmul_(input, slope.to(input.dtype).view(shape)).add_(constant.to(input.dtype).view(shape))


def _differentiable(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, gradient: Tensor, eps: float, ranks: _Ranks
) -> list[Tensor | None]:
    """Gradients by input, weight and bias, with the graph by which they came about."""
    axes = [0, *range(2, input.dim())]
    shape = (1, -1, *(1 for _ in input.shape[2:]))
    with torch.enable_grad():
        centred = input - _MeanOfAll.apply(input.mean(axes), ranks).view(shape)
        variance = _MeanOfAll.apply(centred.square().mean(axes), ranks)
        output = centred * (variance + eps).rsqrt().view(shape)
        if weight is not None and bias is not None:
            output = output * weight.view(shape) + bias.view(shape)
        wanted = [tensor for tensor in (input, weight, bias) if tensor is not None and tensor.requires_grad]
        found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
    return [next(found) if tensor is not None and tensor.requires_grad else None for tensor in (input, weight, bias)]


class _MeanOfAll(torch.autograd.Function):
    """The mean over the processes, whose gradient is that of the sum of all processes' losses."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: _Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.gather(values).mean(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        mean: Tensor = _MeanOfAll.apply(gradients[0], ctx.ranks)
        return mean, None
