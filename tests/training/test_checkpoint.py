"""Checkpoints: everything comes back, one good file is always there, and nothing in them is executed."""

import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.swa_utils import AveragedModel

from lcprune import runs
from lcprune.errors import RunError
from lcprune.models import Network
from lcprune.training import checkpoint
from lcprune.training.checkpoint import TrainingState
from lcprune.training.checksum import is_intact

REPRODUCIBILITY: dict[str, str | int] = {"threads": 1, "device": "cpu"}


def new_state(seed: int = 0, width: int = 3) -> TrainingState:
    """After one step of both optimizers, so that they have something to remember."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(nn.Identity(), [nn.Linear(2, width), nn.Linear(width, 2)], [nn.Linear(width, 2)])
        optimizers = (
            SGD(network.groups.parameters(), lr=0.1, momentum=0.9),
            Adam(network.critics.parameters(), lr=0.1),
        )
        sum(logits.sum() for logits in network(torch.rand(4, 2))).backward()
        for optimizer in optimizers:
            optimizer.step()
    return TrainingState(network, optimizers, step=7, seconds=1.5, best_accuracy_pct=62.5)


def flat(content: Any) -> list[Any]:
    if isinstance(content, dict):
        return [part for key in content for part in (key, *flat(content[key]))]
    if isinstance(content, list | tuple):
        return [part for entry in content for part in flat(entry)]
    return [content.tolist() if isinstance(content, torch.Tensor) else content]


def test_everything_comes_back(tmp_path: Path) -> None:
    state = new_state()
    torch.manual_seed(5)
    checkpoint.save(state, tmp_path / "a.pt", REPRODUCIBILITY)
    drawn = torch.rand(3)
    other = new_state(seed=1)
    content = checkpoint.load(tmp_path / "a.pt")
    checkpoint.restore(other, content)
    assert torch.equal(torch.rand(3), drawn)
    assert (other.step, other.seconds, other.best_accuracy_pct) == (7, 1.5, 62.5)
    assert flat(other.network.state_dict()) == flat(state.network.state_dict())
    for one, two in zip(other.optimizers, state.optimizers, strict=True):
        assert flat(one.state_dict()) == flat(two.state_dict())
        assert one.state_dict()["state"]
    assert content["surroundings"] == REPRODUCIBILITY
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_an_average_comes_back_once_there_is_one(tmp_path: Path) -> None:
    state, other = new_state(), new_state(seed=1)
    state.average, other.average = AveragedModel(state.network), AveragedModel(other.network)
    checkpoint.save(state, tmp_path / "a.pt", REPRODUCIBILITY)
    assert checkpoint.load(tmp_path / "a.pt")["average"] is None
    checkpoint.restore(other, checkpoint.load(tmp_path / "a.pt"))
    assert int(other.average.n_averaged) == 0
    state.average.update_parameters(state.network)
    state.average.update_parameters(new_state(seed=2).network)
    checkpoint.save(state, tmp_path / "a.pt", REPRODUCIBILITY)
    checkpoint.restore(other, checkpoint.load(tmp_path / "a.pt"))
    assert int(other.average.n_averaged) == 2
    assert flat(other.average.state_dict()) == flat(state.average.state_dict())
    assert flat(other.average.module.state_dict()) != flat(other.network.state_dict())


def test_the_one_before_the_last_is_kept(tmp_path: Path) -> None:
    state = new_state()
    assert checkpoint.load_newest(tmp_path) == (None, [])
    for step in (10, 20, 30):
        state.step = step
        checkpoint.rotate(tmp_path, state, REPRODUCIBILITY)
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 30
    assert checkpoint.load(tmp_path / "last_good.pt")["step"] == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "last_good.pt"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    state = new_state()
    for step in (10, 20):
        state.step = step
        checkpoint.rotate(tmp_path, state, REPRODUCIBILITY)
    last = tmp_path / "last.pt"
    whole = last.read_bytes()
    last.write_bytes({"truncated": whole[:-200], "empty": b"", "text": b"hello"}[damage])
    content, complaints = checkpoint.load_newest(tmp_path)
    assert content is not None
    assert content["step"] == 10
    assert len(complaints) == 1
    assert complaints[0].startswith(f"{last} is damaged (")


def test_only_damaged_ones_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "last_good.pt").write_bytes(b"hello")
    with pytest.raises(RunError, match=r"last_good\.pt is damaged") as error:
        checkpoint.load_newest(tmp_path)
    assert error.value.fix == "train again: no checkpoint of this run can be read"


@pytest.mark.parametrize("content", [{"format": 2}, {}, [1], 3])
def test_another_format_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(RunError, match=r"a\.pt is no checkpoint of this version"):
        checkpoint.load(tmp_path / "a.pt")


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    torch.save({"format": checkpoint.FORMAT, "trap": Trap(tmp_path / "sprung")}, tmp_path / "a.pt")
    with pytest.raises(RunError, match=r"a\.pt is damaged"):
        checkpoint.load(tmp_path / "a.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    checkpoint.save(new_state(width=4), tmp_path / "a.pt", REPRODUCIBILITY)
    with pytest.raises(RunError, match="the checkpoint belongs to another network"):
        checkpoint.restore(new_state(), checkpoint.load(tmp_path / "a.pt"))


def test_a_full_disk_keeps_every_checkpoint_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = new_state()
    for step in (10, 20):
        state.step = step
        checkpoint.rotate(tmp_path, state, REPRODUCIBILITY)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(RunError, match=r"last\.pt cannot be written: No space left on device"):
            checkpoint.rotate(tmp_path, state, REPRODUCIBILITY)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(new_state(), path, REPRODUCIBILITY)
    whole = path.read_bytes()
    places = {0, 1, len(whole) // 2, *range(len(whole) - 110, len(whole)), *range(0, len(whole), 97)}
    for place in sorted(places):  # the end of the archive, its comment and its digest among them
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not is_intact(path), place
    with pytest.raises(RunError, match=r"a\.pt is damaged \(its SHA-256 is not what was written\)"):
        checkpoint.load(path)
    path.write_bytes(whole)
    assert checkpoint.load(path)["step"] == 7


def test_a_checkpoint_is_still_an_archive_that_torch_and_others_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(new_state(), path, REPRODUCIBILITY)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"lcprune sha256 ")
    assert torch.load(path, weights_only=True)["step"] == 7


def test_a_checkpoint_of_an_older_version_has_no_digest_no_retries_and_no_average(tmp_path: Path) -> None:
    state = new_state()
    checkpoint.save(state, tmp_path / "a.pt", REPRODUCIBILITY)
    content = checkpoint.load(tmp_path / "a.pt")
    del content["retries"], content["average"]
    torch.save(content, tmp_path / "a.pt")
    checkpoint.restore(state, checkpoint.load(tmp_path / "a.pt"))
    assert (state.step, state.retries) == (7, 0)


def test_a_damaged_one_never_becomes_the_good_one(tmp_path: Path) -> None:
    state = new_state()
    for step in (10, 20):
        state.step = step
        checkpoint.rotate(tmp_path, state, REPRODUCIBILITY)
    last = tmp_path / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    state.step = 30
    checkpoint.rotate(tmp_path, state, REPRODUCIBILITY)
    assert checkpoint.load(tmp_path / "last_good.pt")["step"] == 10
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 30


def test_bytes_are_on_the_disk_before_their_name_and_the_name_before_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed process cannot show: without these a power cut leaves a name of an empty file, or none."""
    checkpoint.rotate(tmp_path, new_state(), REPRODUCIBILITY)
    events: list[str] = []
    flush, rename = os.fsync, Path.replace

    def noted_flush(handle: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        flush(handle)

    def noted_rename(path: Path, target: Path) -> Path:
        events.append(f"{path.name} becomes {Path(target).name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_flush)
    monkeypatch.setattr(Path, "replace", noted_rename)
    checkpoint.rotate(tmp_path, new_state(), REPRODUCIBILITY)
    first, second = "last.pt becomes last_good.pt", "last.pt.part becomes last.pt"
    assert [event for event in events if event.startswith("last")] == [first, second]
    assert "file" in events[: events.index(first)]
    assert events[-1] == "folder"
    events.clear()
    runs.write_text(tmp_path / "a.json", "{}")
    assert events == ["file", "a.json.part becomes a.json", "folder"]
