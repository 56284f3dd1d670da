"""Worker processes that make batches ahead of time, by torch's DataLoader."""

import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from lcprune.errors import LcpruneError, SetupError, of_system

AHEAD = 2
"""Batches that wait in the queue for each worker."""

T = TypeVar("T")


def read_ahead(make: Callable[[int], T], keys: Iterable[int], workers: int, pin_memory: bool = False) -> Iterator[T]:
    """`make` of each of `keys`, in that order, at most `AHEAD` times `workers` of them ahead of time.

    Without workers each is made when it is asked for. Workers end with the iterator. They are forked, and so share a
    cache; started otherwise they would copy it.

    Raises:
        SetupError: If there are to be workers and the system cannot fork.
        LcpruneError: If `make` raises it.
    """
    if not workers:
        yield from map(make, keys)
        return
    if sys.platform == "win32":
        raise SetupError("data.workers needs a system that can fork", "set data.workers: 0")
    with warnings.catch_warnings():
        # More workers than cores may be meant: they wait for a slow disk. And they use none of our threads.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        loader = DataLoader(
            _Made(make),
            sampler=keys,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=AHEAD,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # else each loader would draw from torch's own, which dropout uses
            worker_init_fn=_leave_signals_to_the_trainer,
            multiprocessing_context="fork",
        )
        queue = iter(loader)
    while True:
        try:
            made = next(queue)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise SetupError(
                f"a process that reads images has ended: {str(error).splitlines()[0]}",
                "if the memory is full, set a smaller data.workers; then resume",
            ) from None
        if isinstance(made, LcpruneError):
            raise made
        yield made


class _Made(Dataset[T | LcpruneError]):
    """`make` as a dataset. It returns an error instead of raising it: a DataLoader would rewrite it."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make

    def __getitem__(self, key: int) -> T | LcpruneError:
        try:
            return self._make(key)
        except LcpruneError as error:
            return error
        except (OSError, MemoryError) as error:
            return of_system(error)


def _leave_signals_to_the_trainer(_: int) -> None:
    """Ctrl-C and SIGHUP reach every process of a terminal; a worker that obeys ends before the last checkpoint."""
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
