"""BatchNorm with the statistics of a batch that several processes share.

torch's SyncBatchNorm does the same, but on GPUs only. Here the means and variances of all processes are gathered; the
variance of the batch is the mean of theirs plus the variance of their means. E[x^2] - E[x]^2 would lose digits.

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


class ReducedBatchNorm(_BatchNorm):
    """BatchNorm for a batch that several processes share evenly; in eval mode it is `nn.BatchNorm2d`.

    Children of the layer, such as the activation of timm's ``BatchNormAct2d``, follow one after another.
    """

    def __init__(self, layer: _BatchNorm, group: ProcessGroup) -> None:
        """Shares the weights and statistics of `layer`."""
        super().__init__(layer.num_features, layer.eps, layer.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats = layer.affine, layer.track_running_stats
        self._parameters = copy.copy(layer._parameters)  # in the same order, under the same names
        self._buffers = copy.copy(layer._buffers)
        self._modules = copy.copy(layer._modules)
        self.training = layer.training
        self._group = group

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C)``, ``(N, C, L)`` or ``(N, C, H, W)`` to the same shape; N is the share of this process."""
        output = self._normalized(input)
        for child in self.children():
            output = child(output)
        return output

    def _normalized(self, input: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        mean, variance = _statistics(input, self._group)
        if self.training:
            self._keep(mean, variance, dist.get_world_size(self._group) * input.numel() // input.shape[1])
        normalized: Tensor = _Normalize.apply(input, self.weight, self.bias, mean, variance, self.eps, self._group)
        return normalized

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"an input of {input.dim()} dimensions has no channels")

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Updates the running statistics as torch does: by `momentum`, or as a plain mean if that is None."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (count / max(1, count - 1))
        for kept, now in ((self.running_mean, mean), (self.running_var, unbiased)):
            kept.lerp_(now.to(kept.dtype), share)


def reduce_statistics(network: nn.Module, group: ProcessGroup) -> None:
    """Replaces every BatchNorm in a network by a `ReducedBatchNorm` with the same weights and statistics.

    Args:
        network: Not itself a BatchNorm.
        group: The processes that share every batch, evenly; in training mode all of them call the network together.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(parent, name, ReducedBatchNorm(child, group))


def _gather(values: Tensor, group: ProcessGroup) -> Tensor:
    """The values of all processes, by rank: ``(size, *shape)``."""
    everyone = values.new_empty(dist.get_world_size(group), *values.shape)
    dist.all_gather(list(everyone), values.contiguous(), group=group)
    return everyone


@torch.no_grad()
def _statistics(input: Tensor, group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel over the whole batch, ``(C,)`` each, in float32 or wider."""
    wide = input.float() if input.itemsize < 4 else input
    own = torch.stack(torch.batch_norm_update_stats(wide, None, None, 0.0))
    means, variances = _gather(own, group).unbind(1)
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
        group: ProcessGroup,
    ) -> Tensor:
        ctx.save_for_backward(input, weight, bias, mean, variance)
        ctx.eps, ctx.group = eps, group
        return F.batch_norm(input, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, bias, mean, variance = ctx.saved_tensors
        (gradient,) = gradients
        if torch.is_grad_enabled():  # for a second derivative
            return (*_differentiable(input, weight, bias, gradient, ctx.eps, ctx.group), None, None, None, None)
        of_input, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, input, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        if ctx.needs_input_grad[0]:
            # So far of_input is w / std * g, which is right for constant statistics; of_weight is sum(g * x_hat) and
            # of_bias is sum(g), of this process.
            sums = torch.stack([of_weight, of_bias]).to(mean.dtype)
            means = _gather(sums, ctx.group).mean(0) / (input.numel() // input.shape[1])
            inverse_std = (variance + ctx.eps).rsqrt()
            scale = inverse_std if weight is None else inverse_std * weight
            slope = -scale * inverse_std * means[0]
            constant = -scale * means[1] - slope * mean
            shape = (1, -1, *(1 for _ in input.shape[2:]))
            of_input.addcmul_(input, slope.to(input.dtype).view(shape)).add_(constant.to(input.dtype).view(shape))
        own = (of_weight, of_bias) if weight is not None else (None, None)
        return (of_input, *own, None, None, None, None)


def _differentiable(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, gradient: Tensor, eps: float, group: ProcessGroup
) -> list[Tensor | None]:
    """Gradients by input, weight and bias, with their graph."""
    axes = [0, *range(2, input.dim())]
    shape = (1, -1, *(1 for _ in input.shape[2:]))
    with torch.enable_grad():
        centred = input - _MeanOfAll.apply(input.mean(axes), group).view(shape)
        variance = _MeanOfAll.apply(centred.square().mean(axes), group)
        output = centred * (variance + eps).rsqrt().view(shape)
        if weight is not None and bias is not None:
            output = output * weight.view(shape) + bias.view(shape)
        wanted = [tensor for tensor in (input, weight, bias) if tensor is not None and tensor.requires_grad]
        found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
    return [next(found) if tensor is not None and tensor.requires_grad else None for tensor in (input, weight, bias)]


class _MeanOfAll(torch.autograd.Function):
    """The mean over the processes, whose gradient is that of the sum of all processes' losses."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return _gather(values, group).mean(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        mean: Tensor = _MeanOfAll.apply(gradients[0], ctx.group)
        return mean, None
