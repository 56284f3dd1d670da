"""Data parallel: replicas of the same layers share every batch and average their gradients.

Gradients are sent in buckets while the backward pass goes on; the optimizers wait for them.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup, Work
from torch.optim import Optimizer

from lcprune.errors import RecipeError

BUCKET_BYTES = 1 << 20
"""Gradients are sent as soon as so many bytes of them are known."""


class Replicas:
    """The processes with the same layers. All of them make the same calls."""

    def __init__(self, group: ProcessGroup) -> None:
        """`group` has a backend for the device of the layers."""
        self.rank = dist.get_rank(group)
        """Of this process among the replicas, from 0."""
        self.size = dist.get_world_size(group)
        self._group = group
        self._bucket: list[Tensor] = []
        self._under_way: list[tuple[Work | None, Tensor, list[Tensor]]] = []

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Gives all replicas the values of the first one, in place."""
        for tensor in tensors:
            dist.broadcast(tensor.detach(), dist.get_global_rank(self._group, 0), group=self._group)

    def average_gradients(self, optimizers: Iterable[Optimizer]) -> None:
        """Makes every optimizer use the means of the gradients; each weight must have one backward pass a step."""
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(lambda *_: self._wait())
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    weight.register_post_accumulate_grad_hook(self.add_gradient)

    def add_gradient(self, weight: Tensor) -> None:
        """Averages the gradient of a weight; to be called for a gradient that was not set by a backward pass."""
        if weight.grad is None or self.size == 1:
            return
        self._bucket.append(weight.grad)
        if sum(gradient.nbytes for gradient in self._bucket) >= BUCKET_BYTES:
            self._send()

    def rows(self, batch_size: int) -> slice:
        """This replica's rows of every batch.

        Raises:
            RecipeError: If the replicas cannot share it evenly: their means would not be those of the batch.
        """
        share, left = divmod(batch_size, self.size)
        if left:
            fitting = " or ".join(str(n * self.size) for n in (share, share + 1) if n)
            raise RecipeError(
                f"data.batch_size is {batch_size}, which {self.size} replicas cannot share evenly",
                f"set data.batch_size to {fitting}, or start another number of processes",
            )
        return slice(self.rank * share, (self.rank + 1) * share)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of the replicas' values, of the same shape; without a graph."""
        summed = values.detach().clone()
        dist.all_reduce(summed, group=self._group)
        return summed.div_(self.size)

    def _send(self) -> None:
        flat = torch.cat([gradient.flatten() for gradient in self._bucket]).div_(self.size)
        self._under_way.append((dist.all_reduce(flat, group=self._group, async_op=True), flat, self._bucket))
        self._bucket = []

    def _wait(self) -> None:
        if self._bucket:
            self._send()
        for work, flat, gradients in self._under_way:
            if work is not None:
                work.wait()
            for gradient, mean in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))
        self._under_way.clear()
