"""Collectives that torch.distributed has under another name from one version to the next."""

from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup, Work

_gather: Callable[..., Work | None] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""torch 2.14 has the first name and deprecates the second, which is all that 2.11 to 2.13 have."""


def start_gathering(gathered: Tensor, own: Tensor, group: ProcessGroup) -> Work | None:
    """Starts to put the `own` of all processes into `gathered`, by rank; returns what can be waited for.

    Args:
        gathered: ``(size * N,)``, contiguous.
        own: ``(N,)``, of the same length, type and device in every process.
        group: The processes, `size` of them.
    """
    return _gather(gathered, own, group=group, async_op=True)
