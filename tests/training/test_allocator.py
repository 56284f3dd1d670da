"""Freed memory that is kept: no page is asked for twice."""

import os
import platform
import subprocess
import sys

import pytest

ALLOCATES = """
import resource, torch
from lcprune.training.allocator import keep_freed_memory, release_freed_memory

def faults(mib):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(mib * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(keep_freed_memory(), faults(96) > 10_000, faults(64) > 10_000, end=" ")
release_freed_memory()
print(faults(64) > 10_000)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def printed(**environment: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATES], env=kept | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_a_tensor_that_fits_into_freed_memory_costs_no_page_faults_until_it_is_released() -> None:
    assert printed() == ["True", "True", "False", "True"]


def test_what_the_environment_says_stands() -> None:
    assert printed(MALLOC_MMAP_THRESHOLD_="1000000") == ["False", "True", "True", "True"]
