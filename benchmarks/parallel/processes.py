"""Processes as torchrun starts them, each with one thread on a core of its own, and the links between two of them.

Links are counted, or as slow as a far network: a message is handed over with a delay.
A message of gloo leaves when the receiver has said that it expects it, and that word needs as long as the message: so
nothing is handed over before `delay` has gone by since it was sent, nor before twice `delay` since it was expected.
Both times go through memory that the processes share. Nobody is busy while waiting.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from lcprune.training.parallel import placement
from lcprune.training.parallel.mesh import ProcessMesh, connected
from lcprune.training.parallel.messages import Receiver, Sender

Job = Callable[[ProcessMesh, Any], Any]
"""What every process does; what the first one returns, as JSON has it, is the result."""
CPU = torch.device("cpu")
TIMEOUT_S = 600.0


def together(job: Job, about: Any, ranks: int, cores: Sequence[int], folder: Path) -> Any:
    """Runs a job in `ranks` processes and returns what the first one found.

    Args:
        job: A function of a module, so that a new process can import it.
        about: Goes to the job.
        ranks: Processes.
        cores: Where they run, in turn.
        folder: For the result and for what the processes share; it is there.

    Raises:
        ProcessException: If one of them fails; the others are ended.
    """
    answer = folder / f"{job.__name__}.json"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    torch.multiprocessing.spawn(_rank, (job, about, settings, cores, answer), nprocs=ranks)
    return json.loads(answer.read_text(encoding="utf-8"))


def replicas_of(mesh: ProcessMesh) -> ProcessMesh:
    """The same processes, with batches divided instead of layers."""
    return replace(mesh, stages=1, replicas=mesh.world_size, replica_group=dist.new_group())


def _rank(rank: int, job: Job, about: Any, settings: dict[str, str], cores: Sequence[int], answer: Path) -> None:
    os.environ |= {**settings, "RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    with connected("layers", int(settings["WORLD_SIZE"]), CPU, TIMEOUT_S) as mesh:
        result = job(mesh, about)
        dist.barrier()
        if mesh.rank == 0:
            answer.write_text(json.dumps(result), encoding="utf-8")


_SLOTS = 64
"""Steps that the board remembers; more than ever are under way."""


class Board:
    """When messages were expected and sent: a row for each direction, in memory that two processes share."""

    def __init__(self, path: Path) -> None:
        """Every process names the same file, which is made where it is not there."""
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


class FarSender(Sender):
    """Notes when it sends."""

    def __init__(self, board: Board, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._noted = partial(board.send, _row(arguments))

    def send(self, step: int, tensor: Tensor) -> None:
        """See `Sender`."""
        self._noted(step)
        super().send(step, tensor)


class FarReceiver(Receiver):
    """Hands a message over late."""

    def __init__(self, board: Board, delay_s: float, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._board, self._delay_s, self._row = board, delay_s, _row(arguments)
        self._ahead = arguments[-1]
        self._noted = 0  # the first step that is not expected yet

    def receive(self, step: int) -> Tensor:
        """See `Receiver`."""
        while self._noted < step + self._ahead:
            self._board.expect(self._row, self._noted)
            self._noted += 1
        tensor = super().receive(step)
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


@contextmanager
def counted() -> Iterator[list[int]]:
    """Inside, the bytes of every message that this process sends by `torch.distributed.isend` are noted."""
    sizes: list[int] = []
    real = dist.isend

    def isend(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
        sizes.append(tensor.nbytes)
        return real(tensor, *arguments, **options)

    with mock.patch.object(dist, "isend", isend):
        yield sizes


def _row(arguments: Sequence[Any]) -> int:
    """Losses, ``(N,)``, go back; all else forward. The last arguments of senders and receivers are spec and depth."""
    return int(len(arguments[-2].shape) == 1)
