"""Processes that make batches ahead of time."""

import errno
import os
import signal
from collections.abc import Iterator

import pytest
import torch

from lcprune.data.workers import AHEAD, read_ahead
from lcprune.errors import LcpruneError, SetupError


def told(key: int) -> tuple[int, int, str]:
    """What a worker says of itself."""
    return key, os.getpid(), str(signal.getsignal(signal.SIGINT))


class Counted:
    """Keys without end, and how many of them were asked for."""

    asked = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.asked += 1
            yield self.asked - 1


def test_a_worker_leaves_the_end_to_the_trainer() -> None:
    """Ctrl-C reaches every process of a terminal; the trainer still needs batches for its last checkpoint."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell ignores it
    try:
        all_told = list(read_ahead(told, range(5), workers=2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert [key for key, _, _ in all_told] == [0, 1, 2, 3, 4]
    assert {on_interrupt for _, _, on_interrupt in all_told} == {str(signal.SIG_IGN)}
    assert len({pid for _, pid, _ in all_told} - {os.getpid()}) == 2


def test_starting_workers_draws_nothing_from_the_generator_of_torch() -> None:
    before = torch.get_rng_state()
    list(read_ahead(told, range(2), workers=1))
    assert torch.equal(torch.get_rng_state(), before)  # else dropout in a resumed run would be another


def test_no_more_is_made_ahead_than_the_queue_holds() -> None:
    keys = Counted()
    made = read_ahead(told, keys, workers=2)
    for taken in range(1, 4):
        next(made)
        assert keys.asked == taken + 2 * AHEAD


def killed(key: int) -> int:
    """In the second batch the worker dies, as one does that the system has no memory for."""
    if key:
        os.kill(os.getpid(), signal.SIGKILL)
    return key


def without_a_file(key: int) -> int:
    """What the system refuses in a worker."""
    raise OSError(errno.EMFILE, "Too many open files", "a.png")


def test_a_worker_that_was_killed_is_told() -> None:
    with pytest.raises(SetupError, match="a process that reads images has ended: DataLoader worker") as caught:
        list(read_ahead(killed, range(4), workers=1))
    assert "data.workers" in caught.value.fix


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_system_refuses_in_a_worker_is_one_message(workers: int) -> None:
    with pytest.raises(LcpruneError, match="^a.png: Too many open files\n") as caught:
        list(read_ahead(without_a_file, range(4), workers=workers))
    assert caught.value.kind == "system"
