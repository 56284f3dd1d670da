"""Asynchronous messages with a tensor from one process to its neighbour.

A message is eight bytes with the number of its step, followed by the tensor. Each direction between two processes has
its own process group, because NCCL runs the operations of a group in order.
"""

from collections import deque
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from lcprune.errors import PeerError
from lcprune.training.parallel.mesh import ProcessMesh

HEADER_BYTES = 8
Started = tuple[dist.Work | None, Tensor]
"""A message that is being sent or received, and its work."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape, type and memory format of all tensors of a connection."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @property
    def message_bytes(self) -> int:
        """Size of a message, with its header."""
        return HEADER_BYTES + torch.Size(self.shape).numel() * self.dtype.itemsize

    def new_message(self, device: torch.device) -> Tensor:
        """Memory for a message."""
        return torch.empty(self.message_bytes, dtype=torch.uint8, device=device)

    def view(self, message: Tensor) -> Tensor:
        """The tensor in a message."""
        content = message[HEADER_BYTES:].view(self.dtype)
        if not self.channels_last:
            return content.view(self.shape)
        samples, channels, height, width = self.shape
        return content.view(samples, height, width, channels).permute(0, 3, 1, 2)


class Sender:
    """Sends one tensor a step; waits only if `depth` of them have not been received."""

    def __init__(self, mesh: ProcessMesh, to: int, group: ProcessGroup, spec: TensorSpec, depth: int) -> None:
        """`to` is the rank at the other end of `group`."""
        self._mesh = mesh
        self._to = to
        self._group = group
        self._spec = spec
        self._depth = max(1, depth)
        self._under_way: deque[Started] = deque()

    def send(self, step: int, tensor: Tensor) -> None:
        """Starts to send the tensor of `step`; it may be changed afterwards.

        Raises:
            RuntimeError: Of torch, if the other process does not receive in time.
        """
        if len(self._under_way) == self._depth:
            _wait(self._under_way.popleft(), self._mesh.timeout)
        message = self._spec.new_message(self._mesh.device)
        message[:HEADER_BYTES].view(torch.int64).fill_(step)
        self._spec.view(message).copy_(tensor)
        self._under_way.append((dist.isend(message, self._to, group=self._group), message))

    def close(self) -> None:
        """Waits until all that was sent has arrived."""
        while self._under_way:
            _wait(self._under_way.popleft(), self._mesh.timeout)


class Receiver:
    """Receives one tensor a step; `depth` of them are requested ahead of time."""

    def __init__(self, mesh: ProcessMesh, origin: int, group: ProcessGroup, spec: TensorSpec, depth: int) -> None:
        """`origin` is the rank at the other end of `group`."""
        self._mesh = mesh
        self._origin = origin
        self._group = group
        self._spec = spec
        self._depth = max(1, depth)
        self._expected: deque[Started] = deque()

    def receive(self, step: int) -> Tensor:
        """The tensor of `step`.

        Raises:
            RuntimeError: Of torch, if it does not arrive in time.
            PeerError: If that of another step arrives.
        """
        while len(self._expected) < self._depth:
            message = self._spec.new_message(self._mesh.device)
            self._expected.append((dist.irecv(message, self._origin, group=self._group), message))
        message = _wait(self._expected.popleft(), self._mesh.timeout)
        sent = int(message[:HEADER_BYTES].view(torch.int64).item())
        if sent != step:
            raise PeerError(
                f"{self._mesh.heartbeat.names[self._origin]} sent step {sent} where step {step} was due",
                "start the same command with the same version on every machine",
            )
        return self._spec.view(message)


def _wait(started: Started, timeout: timedelta) -> Tensor:
    """The message, once it has been sent or received."""
    work, message = started
    if work is not None:  # None in a process outside the group
        work.wait(timeout)
    return message
