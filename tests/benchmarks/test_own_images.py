"""CIFAR-10 as a folder of photographs, commands that are given once, and a page that shows what they printed."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import own_images, tables
from lcprune.data.sources import Dataset, Split

PAGE = (tables.ROOT / "docs/own-images.md").read_text(encoding="utf-8")
CLASSES = ("airplane", *own_images.PHOTOS)


def shown(page: str) -> list[tuple[str, list[str]]]:
    """Every ``$ lcprune ...`` of a page's console blocks, and the lines below it."""
    blocks = re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if part]
    return [(lines[0], [line for line in lines[1:] if line]) for lines in (part.splitlines() for part in parts)]


def in_order(some: list[str], of: list[str]) -> bool:
    rest = iter(of)
    return all(line in rest for line in some)


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Ten images a class of a grey that says which one it is."""
    grey = np.arange(4 * 10, dtype=np.uint8)
    split = Split(np.tile(grey[:, None, None, None], (1, 3, 32, 32)), np.repeat(np.arange(4), 10))
    dataset = Dataset(split, split.subset(np.arange(0)), split, CLASSES, (0.5,) * 3, (0.2,) * 3)
    monkeypatch.setattr(own_images.sources, "load", lambda *_: dataset)
    return dataset


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that are given; each prints two lines, or data where it is asked for data."""
    given: list[list[str]] = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        given.append(words[3:])
        code = {"export": own_images.BUDGET, "bench": 1}.get(words[3], 0)
        said = json.dumps({"value": len(given)}) if "--json" in words else "one\ntwo\n"
        return subprocess.CompletedProcess(words, code, said, "step 1/2\nthe classifier is new\n")

    monkeypatch.setattr(own_images.subprocess, "run", run)
    return given


def test_photographs_are_written_once_and_enlarged(
    tmp_path: Path, cifar: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {
        "others": {"train": slice(0, 2), "test": slice(0, 1)},
        "photos": {"train": slice(0, 3), "test": slice(0, 2)},
        "new": {"": slice(4, 6)},
    }
    monkeypatch.setattr(own_images, "FOLDERS", folders)
    own_images.write_folders(tmp_path, tmp_path)
    assert own_images.count_images(tmp_path / "others") == {"train": 2, "test": 1}
    assert own_images.count_images(tmp_path / "photos") == {"train": 9, "test": 6}
    assert own_images.count_images(tmp_path / "new") == {"new": 6}
    assert sorted(path.name for path in (tmp_path / "new/cat").iterdir()) == ["00024.png", "00025.png"]
    with Image.open(tmp_path / "new/cat/00025.png") as image:
        assert image.size == (64, 64)
        assert image.getextrema() == ((25, 25),) * 3
    (tmp_path / "new/cat/00025.png").unlink()
    own_images.write_folders(tmp_path, tmp_path)
    assert own_images.count_images(tmp_path / "new") == {"new": 5}


def test_folders_share_no_image() -> None:
    photos, new = own_images.FOLDERS["photos"], own_images.FOLDERS["new"]
    assert new[""].start >= photos["test"].stop


def test_a_command_is_given_once(tmp_path: Path, commands: list[list[str]]) -> None:
    first = own_images.typed(tmp_path, "walk/init", "init", "photos/")
    assert first == own_images.typed(tmp_path, "walk/init", "init", "photos/")
    assert first["printed"] == ["one", "two"]
    assert first["told"] == ["the classifier is new"]  # and no progress
    found = own_images.figures(tmp_path, "tuned/select", "select", "run")
    assert found == own_images.figures(tmp_path, "tuned/select", "select", "run")
    assert (found["command"], found["value"], found["exit_code"]) == ("lcprune select run", 2, 0)
    assert commands == [["init", "photos/"], ["select", "run", "--json"]]


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, commands: list[list[str]]) -> None:
    (tmp_path / "runs/a").mkdir(parents=True)
    for name in ("a", "b", "a", "b"):
        row = own_images.train(own_images.typed, tmp_path, name, f"runs/{name}", "x.yaml")
        assert row["command"] == "lcprune train x.yaml"
    assert commands == [["resume", "runs/a"], ["train", "x.yaml"]]


def test_no_budget_is_a_result_and_a_failure_is_none(tmp_path: Path, commands: list[list[str]]) -> None:
    assert own_images.typed(tmp_path, "export", "export", "run")["exit_code"] == own_images.BUDGET
    with pytest.raises(SystemExit, match="lcprune bench x --json ended with 1"):
        own_images.figures(tmp_path, "bench", "bench", "x")
    assert not (tmp_path / "said/bench.json").exists()


def test_thresholds_are_set_by_hand_where_none_pays(tmp_path: Path, commands: list[list[str]]) -> None:
    assert own_images.calibrated_or_by_hand(tmp_path)["command"].endswith("--threshold 0.9")
    assert commands[0][-2:] == ["--max-drop", "1"]


def test_the_page_shows_what_was_printed() -> None:
    walk = {row["command"]: row for row in json.loads(own_images.RESULT.read_text(encoding="utf-8"))["walkthrough"]}
    blocks = shown(PAGE)
    assert [command for command, _ in blocks] == list(walk)
    for command, lines in blocks:
        assert lines
        assert in_order(lines, [line.rstrip() for line in walk[command]["printed"]]), command


def test_a_figure_that_was_never_printed_would_be_seen() -> None:
    ((command, lines),) = shown("```console\n$ lcprune init photos/\ncat  900\nall  1,800\n```\n")
    assert command == "lcprune init photos/"
    assert in_order(lines, ["class  n", "cat  900", "all  1,800"])
    assert not in_order(lines, ["class  n", "cat  901", "all  1,800"])
    assert not in_order(lines, ["all  1,800", "cat  900"])
