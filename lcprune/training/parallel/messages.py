"""Tensors that go from one process to its neighbour while both go on working.

A message is eight bytes with the number of its step, and then the tensor, in one piece. Each direction between two
processes has a process group of its own, because NCCL runs what shares one in one order.
"""

from collections import deque
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from lcprune.errors import PeerError
from lcprune.training.parallel.mesh import ProcessMesh

HEADER_BYTES = 8


@dataclass(frozen=True)
class TensorSpec:
    """What every tensor of a channel looks like."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @property
    def message_bytes(self) -> int:
        """Of a message, its header included."""
        return HEADER_BYTES + torch.Size(self.shape).numel() * self.dtype.itemsize

    def view(self, message: Tensor) -> Tensor:
        """The tensor in a message."""
        content = message[HEADER_BYTES:].view(self.dtype)
        if not self.channels_last:
            return content.view(self.shape)
        samples, channels, height, width = self.shape
        return content.view(samples, height, width, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Neighbour:
    """The process at the other end, and the group that both share for one direction."""

    rank: int
    name: str
    """Who it is, for the message that says that it does not answer."""
    group: ProcessGroup


class Sender:
    """Sends one tensor a step, and waits only where `depth` of them have not been taken."""

    def __init__(self, mesh: ProcessMesh, to: Neighbour, spec: TensorSpec, depth: int) -> None:
        self.sent_bytes = 0
        """So far, headers included."""
        self._mesh = mesh
        self._to = to
        self._spec = spec
        self._free = [
            torch.empty(spec.message_bytes, dtype=torch.uint8, device=mesh.device) for _ in range(max(1, depth))
        ]
        self._under_way: deque[tuple[dist.Work, Tensor]] = deque()

    def send(self, step: int, tensor: Tensor) -> None:
        """Starts to send the tensor of `step`; it may be changed afterwards.

        Raises:
            RuntimeError: torch's own, if there is no room and the other process takes nothing.
        """
        if not self._free:
            self._reclaim()
        message = self._free.pop()
        message[:HEADER_BYTES].view(torch.int64).fill_(step)
        self._spec.view(message).copy_(tensor)
        work = _started(dist.isend(message, self._to.rank, group=self._to.group), self._to)
        self._under_way.append((work, message))
        self.sent_bytes += message.numel()

    def close(self) -> None:
        """Waits until all that was sent has arrived."""
        while self._under_way:
            self._reclaim()

    def _reclaim(self) -> None:
        work, message = self._under_way.popleft()
        work.wait(self._mesh.timeout)
        self._free.append(message)


class Receiver:
    """Receives one tensor a step, with `depth` of them expected ahead of time."""

    def __init__(self, mesh: ProcessMesh, origin: Neighbour, spec: TensorSpec, depth: int) -> None:
        self._mesh = mesh
        self._origin = origin
        self._spec = spec
        self._depth = max(1, depth)
        self._expected: deque[tuple[dist.Work, Tensor]] = deque()
        self._last: Tensor | None = None

    def receive(self, step: int) -> Tensor:
        """The tensor of `step`, valid until the next call.

        Raises:
            RuntimeError: torch's own, if it does not come in time.
            PeerError: If another one comes.
        """
        while len(self._expected) < self._depth:
            self._expect()
        work, message = self._expected.popleft()
        work.wait(self._mesh.timeout)
        self._last = message
        sent = int(message[:HEADER_BYTES].view(torch.int64).item())
        if sent != step:
            raise PeerError(
                f"{self._origin.name} sent step {sent} where step {step} was due",
                "start the same command with the same version on every machine",
            )
        return self._spec.view(message)

    def _expect(self) -> None:
        message, self._last = self._last, None
        if message is None:
            message = torch.empty(self._spec.message_bytes, dtype=torch.uint8, device=self._mesh.device)
        work = _started(dist.irecv(message, self._origin.rank, group=self._origin.group), self._origin)
        self._expected.append((work, message))


def _started(work: dist.Work | None, other: Neighbour) -> dist.Work:
    if work is None:
        raise ValueError(f"this process is not in the group that it shares with {other.name}")
    return work
