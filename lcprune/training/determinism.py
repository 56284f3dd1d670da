"""Deterministic mode: only algorithms whose results are bit-identical every time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lcprune.errors import TrainingError


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Makes torch use deterministic algorithms only, if `enabled`; restores its settings afterwards.

    Raises:
        TrainingError: If an operation has no deterministic algorithm.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it, and reads it at its first call
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise TrainingError(
            f"train.deterministic: {str(error).splitlines()[0]}", "set train.deterministic: false, or train on the CPU"
        ) from None
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
