"""A second CUDA stream for independent work; on other devices everything runs in order."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SideStream:
    """Runs work on a second CUDA stream."""

    def __init__(self, enabled: bool) -> None:
        """Without `enabled`, or without a CUDA device, everything runs on the current stream."""
        self.enabled = enabled and torch.cuda.is_available()
        self._stream = torch.cuda.Stream() if self.enabled else None

    @contextmanager
    def beside(self, *inputs: Tensor) -> Iterator[None]:
        """Runs the body on the second stream, after all work of the current stream so far; it reads `inputs`."""
        if self._stream is None or not all(tensor.is_cuda for tensor in inputs):
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        for tensor in inputs:
            tensor.record_stream(self._stream)  # its memory is not reused before this stream has read it
        with torch.cuda.stream(self._stream):
            yield

    def join(self, *outputs: Tensor) -> None:
        """The current stream waits for the second one, and reads `outputs`."""
        if self._stream is None or not all(tensor.is_cuda for tensor in outputs):
            return
        current = torch.cuda.current_stream()
        current.wait_stream(self._stream)
        for tensor in outputs:
            tensor.record_stream(current)
