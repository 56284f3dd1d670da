"""Locks on folders. They end with the process, however that ends; where a file system has none, nothing is kept out."""

import os
import sys
from pathlib import Path

_LOCKS: set[int] = set()
"""Handles of locks that this process has."""


def take(folder: Path, *, wait: bool) -> int | None:
    """Locks a folder; None where that cannot be done.

    Raises:
        BlockingIOError: If another has it and this shall not wait.
    """
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
    _LOCKS.add(handle)
    return handle


def release(handle: int | None) -> None:
    """Ends a lock; None is none."""
    if handle in _LOCKS:
        _LOCKS.remove(handle)
        os.close(handle)


def _leave_locks_to_the_parent() -> None:
    """In a forked process: one that outlives the training must not hold its lock."""
    while _LOCKS:
        os.close(_LOCKS.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)
