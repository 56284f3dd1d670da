"""Fixtures that more than one test module uses."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def cifar_root() -> Path:
    """The folder with the official CIFAR-10 and CIFAR-100; the test is skipped where they cannot be had."""
    root = REPOSITORY / "data"
    if (root / "cifar-10-batches-py" / "test_batch").is_file() and (root / "cifar-100-python" / "test").is_file():
        return root
    unpack = REPOSITORY.parent / "shared" / "data" / "unpack_cifar.py"
    if not unpack.is_file():
        pytest.skip(f"CIFAR is not in {root}")
    done = subprocess.run([sys.executable, unpack, root, "--dataset", "all"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"CIFAR could not be unpacked into {root}: {done.stderr.strip()[-200:]}")
    return root
