"""Detects dead ranks: every process increments a counter in torchrun's store."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from lcprune.errors import Interrupted, LcpruneError, PeerError

PULSE_S = 0.5
PATIENCE_S = 2.0
"""A rank whose counter stands still for so long is dead."""


class Heartbeat:
    """Increments this rank's counter in a thread, until `stop`, and finds ranks whose counter stands still."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        """`store` is one that all processes reach."""
        self.names = [f"rank {number}" for number in range(size)]
        """Of all processes, for messages."""
        self._store = store
        self._own_store = store.clone()  # another connection, because that of the main thread may be blocked
        self._rank = rank
        self._size = size
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join(PATIENCE_S)  # it may be blocked, if the store is gone

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, an error because of a dead rank names it, and of all processes that an error ends one reports it.

        That is the first one: the one with the cause, if one has it. SIGTERM is an error as well: torchrun sends it to
        the others when a rank is dead.

        Raises:
            PeerError: Instead of torch's error.
        """
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, self._terminated) if is_main else None
        try:
            try:
                yield
            except RuntimeError as error:
                if not is_of_others(error):
                    raise
                _outlive_torchrun()
                raise self._named(error) from error
        except LcpruneError as error:
            _outlive_torchrun()
            error.reports = self._is_first_to_report()
            raise
        if is_main:
            signal.signal(signal.SIGTERM, before)

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        _outlive_torchrun()
        raise self._named(None)

    def _named(self, error: RuntimeError | None) -> LcpruneError:
        fix = "start the same torchrun command with: lcprune resume"
        reason = "" if error is None else str(error).splitlines()[0]
        try:
            dead = self._dead_ranks()
        except RuntimeError:
            return PeerError("torchrun's store does not answer; the last checkpoint is kept", fix)
        if dead:
            return PeerError(
                f"{', '.join(self.names[rank] for rank in dead)} is dead; the last checkpoint is kept", fix
            )
        if error is None:
            return Interrupted("received SIGTERM; the last checkpoint is kept", fix)
        return PeerError(f"the other processes do not answer: {reason}", fix)

    def _dead_ranks(self) -> list[int]:
        before = self._pulses()
        time.sleep(PATIENCE_S)
        after = self._pulses()
        return [rank for rank in range(self._size) if rank != self._rank and before[rank] == after[rank]]

    def _pulses(self) -> list[int]:
        return [self._store.add(f"pulse/{rank}", 0) for rank in range(self._size)]

    def _is_first_to_report(self) -> bool:
        try:
            return self._store.add("reports", 1) == 1
        except RuntimeError:  # the store is gone, and torchrun with it
            return os.environ.get("LOCAL_RANK", "0") == "0"

    def _beat(self) -> None:
        while not self._ended.wait(PULSE_S):
            try:
                self._own_store.add(f"pulse/{self._rank}", 1)
            except RuntimeError:  # the store is gone, and torchrun with it
                return


def _outlive_torchrun() -> None:
    """Ignores SIGTERM, which torchrun sends when a rank is dead, so that this one can report it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def is_of_others(error: RuntimeError) -> bool:
    """Whether an error of torch is about another process, by its text: torch has no error class for that."""
    text = str(error)
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "NCCL", "ProcessGroup"))
