"""Waiting for messages: awake at first, then asleep, and never on an accelerator."""

from typing import Any

import pytest
import torch

from lcprune.training.parallel import waiting


class Late:
    """Work that is done after it was looked at a few times."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.waited = 0

    def is_completed(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def wait(self) -> None:
        self.waited += 1


def test_a_cpu_looks_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    gave_way: list[int] = []
    monkeypatch.setattr(waiting, "AWAKE_S", 60)
    monkeypatch.setattr(waiting, "_give_way", lambda: gave_way.append(1))
    work: Any = Late(5)
    waiting.wait(work, torch.device("cpu"))
    assert (work.waited, len(gave_way)) == (1, 5)


def test_it_sleeps_when_that_takes_long() -> None:
    work: Any = Late(10**12)
    waiting.wait(work, torch.device("cpu"))
    assert work.waited == 1


def test_an_accelerator_is_not_asked() -> None:
    work: Any = Late(5)
    waiting.wait(work, torch.device("cuda"))
    assert (work.waited, work.looks) == (1, 5)
    waiting.wait(None, torch.device("cpu"))
