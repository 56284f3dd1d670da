"""Links between two processes that are counted, or as slow as a far network: a message is handed over with a delay.

A message of gloo leaves when the receiver has said that it expects it, and that word needs as long as the message: so
nothing is handed over before `delay` has gone by since it was sent, nor before twice `delay` since it was expected.
Both times go through memory that the processes share. Nobody is busy while waiting.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from lcprune.training.parallel import placement
from lcprune.training.parallel.mesh import ProcessMesh
from lcprune.training.parallel.messages import Receiver, Sender, TensorSpec

_SLOTS = 64
"""Steps that the board remembers; more than ever are under way."""


class Board:
    """When messages were expected and sent: a row for each direction, in memory that two processes share."""

    def __init__(self, path: Path) -> None:
        """Every process names the same file, which is made where it is not there."""
        if not path.exists():
            path.touch()
        with path.open("r+b") as file:
            file.truncate(2 * 2 * _SLOTS * 8)
        self._times = np.memmap(path, dtype=np.float64, mode="r+", shape=(2, 2, _SLOTS))

    def expect(self, row: int, step: int) -> None:
        """Notes that the message of `step` is expected from now on."""
        self._times[row, 0, step % _SLOTS] = time.monotonic()

    def send(self, row: int, step: int) -> None:
        """Notes that it is sent."""
        self._times[row, 1, step % _SLOTS] = time.monotonic()

    def arrival(self, row: int, step: int, delay_s: float) -> float:
        """When it may be handed over, on the clock of `time.monotonic`."""
        expected, sent = self._times[row, :, step % _SLOTS].tolist()
        return max(sent, expected + delay_s) + delay_s


class FarSender:
    """A `Sender` that notes when it sends."""

    def __init__(
        self, board: Board, mesh: ProcessMesh, to: int, group: ProcessGroup, spec: TensorSpec, depth: int
    ) -> None:
        self._inner = Sender(mesh, to, group, spec, depth)
        self._board = board
        self._row = _row(spec)

    def send(self, step: int, tensor: Tensor) -> None:
        """See `Sender`."""
        self._board.send(self._row, step)
        self._inner.send(step, tensor)

    def close(self) -> None:
        """See `Sender`."""
        self._inner.close()


class FarReceiver:
    """A `Receiver` that hands a message over late."""

    def __init__(
        self,
        board: Board,
        delay_s: float,
        mesh: ProcessMesh,
        origin: int,
        group: ProcessGroup,
        spec: TensorSpec,
        depth: int,
    ) -> None:
        self._inner = Receiver(mesh, origin, group, spec, depth)
        self._board = board
        self._delay_s = delay_s
        self._row = _row(spec)
        self._depth = depth
        self._expected = 0  # the first step that is not expected yet

    def receive(self, step: int) -> Tensor:
        """See `Receiver`."""
        while self._expected < step + self._depth:
            self._board.expect(self._row, self._expected)
            self._expected += 1
        tensor = self._inner.receive(step)
        time.sleep(max(0.0, self._board.arrival(self._row, step, self._delay_s) - time.monotonic()))
        return tensor


@contextmanager
def far(folder: Path, name: str, delay_s: float) -> Iterator[None]:
    """Inside, two processes that are connected are so far apart; of no delay, they are as ever.

    Args:
        folder: One that both reach.
        name: Of this connection.
        delay_s: Of every message, one way.
    """
    if not delay_s:
        yield
        return
    board = Board(folder / f"{name}.board")
    with mock.patch.multiple(
        placement, Sender=partial(FarSender, board), Receiver=partial(FarReceiver, board, delay_s)
    ):
        yield


class Count:
    """Bytes that a process sends by `torch.distributed.isend`."""

    def __init__(self) -> None:
        self.sent_bytes = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Inside, they are counted."""
        real = dist.isend

        def isend(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            self.sent_bytes += tensor.numel() * tensor.itemsize
            return real(tensor, *arguments, **options)

        with mock.patch.object(dist, "isend", isend):
            yield


def _row(spec: TensorSpec) -> int:
    """Losses, ``(N,)``, go back; all else forward."""
    return int(len(spec.shape) == 1)
