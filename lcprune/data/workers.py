"""Processes that make batches ahead of time, as torch's DataLoader runs them."""

import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from lcprune.errors import SetupError

AHEAD = 2
"""Batches that wait in the queue for each worker."""


def read_ahead(made: Dataset[Any], keys: Iterable[int], workers: int, pin_memory: bool = False) -> Iterator[Any]:
    """What `made` gives for each of `keys`, in that order, at most `AHEAD` times `workers` of them ahead of time.

    The workers end with the iterator. They are forked, and so share a cache; started otherwise they would copy it.

    Raises:
        SetupError: If the system cannot fork.
    """
    if sys.platform == "win32":
        raise SetupError("data.workers needs a system that can fork", "set data.workers: 0")
    with warnings.catch_warnings():
        # More workers than cores may be meant: they wait for a slow disk. And they use none of our threads.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        return iter(
            DataLoader(
                made,
                sampler=keys,
                batch_size=None,
                num_workers=workers,
                prefetch_factor=AHEAD,
                pin_memory=pin_memory,
                worker_init_fn=_leave_signals_to_the_trainer,
                multiprocessing_context="fork",
            )
        )


def _leave_signals_to_the_trainer(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; a worker that heeded it would end before the last checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
