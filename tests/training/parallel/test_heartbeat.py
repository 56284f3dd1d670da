"""Dead ranks are detected, and one rank reports them."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from lcprune.errors import Interrupted, LcpruneError, PeerError
from lcprune.training.parallel import heartbeat
from lcprune.training.parallel.heartbeat import Heartbeat


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(heartbeat, "PULSE_S", 0.02)
    monkeypatch.setattr(heartbeat, "PATIENCE_S", 0.3)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def three() -> Iterator[list[Heartbeat]]:
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
    beats = [Heartbeat(store, rank, 3) for rank in range(3)]
    for beat in beats:
        beat.names = ["rank 0 (layer group 1)", "rank 1 (layer groups 2 to 3)", "rank 2 (layer group 4)"]
    yield beats
    for beat in beats:
        beat.stop()


def told_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)


GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:30000"


def test_the_one_that_is_gone_is_named(three: list[Heartbeat]) -> None:
    three[1].stop()
    with pytest.raises(PeerError) as caught, three[0].watched():
        raise RuntimeError(GLOO)
    assert caught.value.problem == "rank 1 (layer groups 2 to 3) is dead; the last checkpoint is kept"
    assert "lcprune resume" in caught.value.fix


def test_all_that_are_gone_are_named(three: list[Heartbeat]) -> None:
    for beat in three[:2]:
        beat.stop()
    named = r"^rank 0 \(layer group 1\), rank 1 \(layer groups 2 to 3\) is dead"
    with pytest.raises(PeerError, match=named), three[2].watched():
        raise dist.DistBackendError("a wire is cut")


def test_where_all_live_nobody_is_blamed(three: list[Heartbeat]) -> None:
    with pytest.raises(PeerError, match="the other processes do not answer: .*Connection closed"), three[0].watched():
        raise RuntimeError(GLOO)


def test_what_is_no_affair_of_others_keeps_its_traceback(three: list[Heartbeat]) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), three[0].watched():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_the_first_one_speaks(three: list[Heartbeat]) -> None:
    reported = []
    for beat in (three[2], three[0], three[1]):
        try:
            with beat.watched():
                raise LcpruneError("the disk is full", "free it")
        except LcpruneError as error:
            reported.append(error.reports)
    assert reported == [True, False, False]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # torchrun does not end it before it has reported


def test_what_ends_well_leaves_signals_as_they_were(three: list[Heartbeat]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with three[0].watched():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_torchruns_signal_is_explained(three: list[Heartbeat]) -> None:
    three[2].stop()
    with pytest.raises(PeerError, match=r"rank 2 \(layer group 4\) is dead"), three[0].watched():
        told_to_end()


def test_a_users_signal_too(three: list[Heartbeat]) -> None:
    with pytest.raises(Interrupted, match="received SIGTERM"), three[0].watched():
        told_to_end()


def test_without_a_store_each_machine_speaks(three: list[Heartbeat], monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def add(self, key: str, amount: int) -> int:
            raise dist.DistNetworkError("no route to host")

    monkeypatch.setattr(three[0], "_store", Gone())
    for rank, reports in (("0", True), ("1", False)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        answers = pytest.raises(PeerError, match="torchrun's store does not answer")
        with answers as caught, three[0].watched():
            raise RuntimeError(GLOO)
        assert caught.value.reports is reports


def test_a_store_in_a_file_will_do(tmp_path: Path) -> None:
    beat = Heartbeat(dist.FileStore(str(tmp_path / "store"), 1), 0, 1)
    beat.stop()
