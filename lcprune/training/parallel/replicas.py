"""Data parallel: replicas of the same layers share every batch, and average their gradients part by part.

Each part that a method calls is wrapped by itself. As soon as the backward pass of one is done, its gradients are on
their way, while the next one computes; optimizers wait for them.
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket  # torch.distributed has it, and does not declare it
from torch.distributed import ProcessGroup, Work
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from lcprune.data.sources import Split
from lcprune.errors import RecipeError
from lcprune.models import Network
from lcprune.training.parallel.waiting import wait
from lcprune.training.predicting import predict_logits


class Replicas:
    """The processes that hold the same layers, seen from one of them. All of them make the same calls."""

    def __init__(self, group: ProcessGroup, device: torch.device) -> None:
        """`device` holds this process's layers; `group` has a backend for it."""
        self.rank = dist.get_rank(group)
        """Of this process in the group, from 0."""
        self.size = dist.get_world_size(group)
        self._group = group
        self._device = device
        self._under_way: list[Work] = []

    def wrap(self, part: nn.Module) -> nn.Module:
        """The part, the one backward pass of which sends its weights' gradients to be averaged over the replicas.

        They are means as soon as an optimizer of `hold` asks. Weights are made alike, those of the first replica. What
        has none that learn is left as it is. A part that was called must not be called again before that backward
        pass, unless the latter never comes.
        """
        if not any(weight.requires_grad for weight in part.parameters()):
            return part
        wrapped = DistributedDataParallel(part, process_group=self._group, gradient_as_bucket_view=True)
        # Statistics of BatchNorm are alike already: see `batch_norm`. The argument has another name in newer torch.
        wrapped.broadcast_buffers = False
        wrapped.register_comm_hook(None, self._send)
        return wrapped

    def hold(self, optimizers: Iterable[Optimizer]) -> None:
        """Lets optimizers wait, before a step, until all gradients are means."""
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(lambda *_: self._settle())

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

    def predict_logits(self, network: Network, split: Split, device: torch.device, channels_last: bool) -> Tensor:
        """As `predicting.predict_logits`, with the images shared out; every replica gets all logits."""
        return self.join_rows(predict_logits(network, self.share_of(split), device, channels_last), len(split))

    def share_of(self, split: Split) -> Split:
        """This replica's images, neighbours in `split`, and never none.

        Where images are fewer than replicas, some get one that another has too, so that all of them know the
        shape of the logits; `join_rows` drops what is there twice.
        """
        start, end = self._share(self.rank, len(split))
        return split.subset(np.arange(start, max(end, start + 1)))

    def join_rows(self, logits: Tensor, count: int) -> Tensor:
        """All `count` rows on the CPU of every replica, ``(K, count, classes)``, from those of each share."""
        shares = [self._share(rank, count) for rank in range(self.size)]
        lengths = [end - start for start, end in shares]
        own = lengths[self.rank]
        padded = torch.zeros(logits.shape[0], max(lengths), logits.shape[2], device=self._device)
        padded[:, :own] = logits[:, :own]
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self._group)
        return torch.cat([part[:, :length] for part, length in zip(parts, lengths, strict=True)], dim=1).cpu()

    def mean(self, values: Tensor) -> Tensor:
        """The mean of the replicas' values, of the same shape; without a graph."""
        summed = values.detach().clone()
        dist.all_reduce(summed, group=self._group)
        return summed.div_(self.size)

    def _send(self, _: None, bucket: GradBucket) -> Future[Tensor]:
        """Averages a bucket where it lies, which is where the gradients are.

        Plain DistributedDataParallel would wait for it at the end of the backward pass of its part, and so the next
        part would not begin before.
        """
        gradients = bucket.buffer()
        self._under_way.append(dist.all_reduce(gradients.div_(self.size), group=self._group, async_op=True))
        done: Future[Tensor] = Future(devices=[self._device] if self._device.type == "cuda" else None)
        done.set_result(gradients)
        return done

    def _settle(self) -> None:
        while self._under_way:
            wait(self._under_way.pop(), self._device)

    def _share(self, rank: int, count: int) -> tuple[int, int]:
        """The first of `count` rows that a replica has, and the one after its last."""
        return rank * count // self.size, (rank + 1) * count // self.size
