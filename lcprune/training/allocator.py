"""How the C library's allocator treats memory that a training step frees and the next one asks for again."""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt, in malloc.h
_NAMES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next allocation, whatever its size; returns whether it does so now.

    By default every tensor of 32 MiB or more goes back to the kernel when it is freed. The next step gets it anew, page
    by page, each filled with zeros at its first touch: with wide critics that is a quarter of the step's time. Without
    glibc, or where the environment sets one of its thresholds, nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _NAMES):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def release_freed_memory() -> None:
    """Gives the kernel what is free now. Done now and then, so that what no step can use again does not pile up."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
