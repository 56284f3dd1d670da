"""A second CUDA stream for work that need not wait for the first; elsewhere everything runs in turn."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SideStream:
    """Runs work beside the current CUDA stream."""

    def __init__(self, enabled: bool) -> None:
        """Without `enabled`, or without a CUDA device, all that is given to it runs on the current stream."""
        self.enabled = enabled and torch.cuda.is_available()
        self._stream = torch.cuda.Stream() if self.enabled else None

    @contextmanager
    def beside(self, *inputs: Tensor) -> Iterator[None]:
        """What runs inside starts when all that the current stream was given so far is done, and reads `inputs`."""
        if self._stream is None or not all(tensor.is_cuda for tensor in inputs):
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        for tensor in inputs:
            tensor.record_stream(self._stream)  # its memory is not given away before this stream has read it
        with torch.cuda.stream(self._stream):
            yield

    def join(self, *outputs: Tensor) -> None:
        """The current stream waits for all that ran beside it, and reads `outputs`."""
        if self._stream is None or not all(tensor.is_cuda for tensor in outputs):
            return
        current = torch.cuda.current_stream()
        current.wait_stream(self._stream)
        for tensor in outputs:
            tensor.record_stream(current)
