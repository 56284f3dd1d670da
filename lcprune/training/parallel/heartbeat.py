"""Who of the processes is gone, told by the pulse that each gives to torchrun's store."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from lcprune.errors import PeerError

PULSE_S = 0.5
PATIENCE_S = 2.0
"""How long a pulse may stay away before its process counts as gone."""


class Heartbeat:
    """A thread that says that this process lives, and asks who of the others does."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        """`store` is one that all processes reach."""
        self.names = [f"rank {number}" for number in range(size)]
        """Who each is, for a message."""
        self._store = store
        self._own_store = store.clone()  # a connection for the thread, because another one may be waiting
        self._rank = rank
        self._size = size
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        """Begins to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, an operation that fails because another process is gone says which.

        Raises:
            PeerError: Instead of torch's error.
        """
        try:
            yield
        except RuntimeError as error:
            if not is_of_others(error):
                raise
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the others, but not before they spoke
            raise self._named(error) from error

    def _named(self, error: RuntimeError) -> PeerError:
        gone = self._gone()
        fix = "start the same torchrun command with: lcprune resume"
        if not gone:
            return PeerError(f"the other processes do not answer: {str(error).splitlines()[0]}", fix)
        who = ", ".join(self.names[rank] for rank in gone)
        alive = [rank for rank in range(self._size) if rank not in gone]
        return PeerError(f"{who} is gone; the last checkpoint stays", fix, speaks=self._rank == alive[0])

    def _gone(self) -> list[int]:
        before = self._pulses()
        time.sleep(PATIENCE_S)
        after = self._pulses()
        return [rank for rank in range(self._size) if rank != self._rank and before[rank] == after[rank]]

    def _pulses(self) -> list[int]:
        return [self._store.add(f"pulse/{rank}", 0) for rank in range(self._size)]

    def _beat(self) -> None:
        while not self._ended.wait(PULSE_S):
            try:
                self._own_store.add(f"pulse/{self._rank}", 1)
            except RuntimeError:  # the store is gone, and torchrun with it
                return


def is_of_others(error: RuntimeError) -> bool:
    """Whether torch says that another process does not answer; its classes of errors do not tell."""
    text = str(error)
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "NCCL", "ProcessGroup"))
