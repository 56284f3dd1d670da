"""Processes that make batches ahead of time."""

import os
import signal
from collections.abc import Iterator

from lcprune.data.workers import AHEAD, read_ahead


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


def test_no_more_is_made_ahead_than_the_queue_holds() -> None:
    keys = Counted()
    made = read_ahead(told, keys, workers=2)
    for taken in range(1, 4):
        next(made)
        assert keys.asked == taken + 2 * AHEAD
