"""The pieces by hand, and two small trials of the whole."""

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks.parallel import __main__ as command
from benchmarks.parallel import jobs, processes
from lcprune.training.parallel.messages import TensorSpec

TINY = ["--rounds", "1", "--cores", "0", "--set", "critics.channels=4", "--set", "data.batch_size=4"]


def test_a_message_arrives_a_delay_after_it_was_sent_and_two_after_it_was_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = processes.Board(tmp_path / "board"), processes.Board(tmp_path / "board")
    now = iter([10.0, 10.5, 20.0, 20.1])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    here.expect(0, 3)
    there.send(0, 3)
    assert here.arrival(0, 3, 0.2) == pytest.approx(10.7)
    here.expect(1, 3)
    there.send(1, 3)
    assert here.arrival(1, 3, 0.2) == pytest.approx(20.4)


def test_a_far_receiver_sleeps_until_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(processes.Receiver, "__init__", lambda *_: None)
    monkeypatch.setattr(processes.Receiver, "receive", lambda _, step: torch.tensor(step))
    monkeypatch.setattr(time, "sleep", slept.append)
    board = processes.Board(tmp_path / "board")
    receiver = processes.FarReceiver(board, 5.0, None, 0, None, TensorSpec((4,)), 2)
    board.send(1, 0)
    assert receiver.receive(0) == 0
    assert slept[0] == pytest.approx(10, abs=0.5)  # expected only now
    board.send(1, 1)
    receiver.receive(1)  # it was expected together with the one before
    assert slept[1] == pytest.approx(10, abs=0.5)


def test_no_delay_changes_nothing(tmp_path: Path) -> None:
    before = processes.placement.Sender, processes.placement.Receiver
    with processes.far(tmp_path, "x", 0.0):
        assert (processes.placement.Sender, processes.placement.Receiver) == before
    with processes.far(tmp_path, "x", 0.1):
        assert processes.placement.Sender is not before[0]
    assert (processes.placement.Sender, processes.placement.Receiver) == before


def test_live_bytes_are_those_of_storages() -> None:
    before = jobs.live_bytes()
    kept = torch.zeros(1000)
    view = kept[10:]
    assert jobs.live_bytes() - before == 4000
    del kept, view
    assert jobs.live_bytes() == before


def test_cases_have_names_of_their_own() -> None:
    for _, cases, _ in command.PARTS.values():
        assert len({case.network for case in cases}) == len(cases)


@pytest.mark.slow
def test_two_processes_are_measured(tmp_path: Path) -> None:
    out = tmp_path / "parallel.json"
    command.main(["--only", "speed", "link", "--case", "2", *TINY, "--out", str(out)])
    result = json.loads(out.read_text(encoding="utf-8"))
    (case,) = result["speed"]["rows"]
    sides = {row["side"]: row for row in case["rows"]}
    assert {"one process", "layers", "layers, staleness 1", "data", "backprop", "1F1B, the same cut"} <= set(sides)
    assert all(row["speedup"]["median"] > 0 for row in case["rows"])
    assert (sides["layers"]["over"], sides["data"]["over"]) == ("one process", "one process")
    assert sides["GPipe, the same cut"]["over"] == "backprop"
    assert [cpu > 0 for cpu in sides["one process"]["cpu_s"]] == [True, False]
    assert sum(case["groups_per_rank"]) == 4
    assert [row["bytes"] for row in result["link"]["rows"]] == [512, 1 << 20, 1 << 24]
    for key in ("command", "machine", "versions", "seed"):
        assert key in result


@pytest.mark.slow
def test_four_processes_send_what_the_formula_says_and_hold_their_part(tmp_path: Path) -> None:
    out = tmp_path / "parallel.json"
    command.main(["--only", "memory", "--case", "4", *TINY, "--out", str(out)])
    (case,) = json.loads(out.read_text(encoding="utf-8"))["memory"]["rows"]
    assert case["sent_bytes"] == case["bytes_sent_per_step"]
    assert case["sent_bytes"][-1] == 8 + 4 * 4  # the losses of four images
    assert case["largest_over_backprop"] == max(case["peak_bytes"]) / case["backprop_bytes"]
    assert 0 < min(case["peak_bytes"]) < case["local_critic_bytes"]
