"""Locks on folders. They end with the process, however it ends. Where a file system has none, nothing is locked."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HELD: set[int] = set()
"""File descriptors of the locks that this process holds."""


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Locks a folder itself: no file is left behind.

    Raises:
        BlockingIOError: If another process has the lock and `wait` is False.
    """
    handle = _lock(folder, wait)
    try:
        yield
    finally:
        if handle in _HELD:  # a forked process has closed it already
            _HELD.remove(handle)
            os.close(handle)


def _lock(folder: Path, wait: bool) -> int | None:
    """The file descriptor of a lock; None where a folder cannot be locked."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None  # a file system without locks
    _HELD.add(handle)
    return handle


def _leave_locks_to_the_parent() -> None:
    """In a forked process: one that outlives the training must not hold its lock."""
    while _HELD:
        os.close(_HELD.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)
