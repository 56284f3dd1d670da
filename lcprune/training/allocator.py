"""Settings of glibc's allocator for memory that a training step frees and the next one allocates again."""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt, in malloc.h
_NAMES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next allocation, of any size; returns whether that is set now.

    By default a tensor of 32 MiB or more is returned to the kernel when it is freed. The next step allocates it again,
    and the kernel zeroes every page at its first use: with wide critics that is a quarter of the step's time. Nothing
    is changed without glibc, or where the environment sets one of its thresholds.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _NAMES):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def release_freed_memory() -> None:
    """Returns free memory to the kernel. Called at times, so that fragments that no step can use do not accumulate."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
