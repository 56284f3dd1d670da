"""`lcprune reproduce`: what it prints and refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from lcprune.cli import app
from lcprune.cli.reproduce import Part, Scale
from lcprune.paper.scales import SCALES
from lcprune.paper.targets import TARGETS

Cli = Callable[..., Any]
Refused = Callable[..., dict[str, str]]


def test_the_names_and_scales_are_those_that_there_are() -> None:
    assert list(get_args(Part)) == list(TARGETS)
    assert list(get_args(Scale)) == list(SCALES)
    assert "reproduce" in typer.main.get_command(app).commands


def test_table5_as_a_table_and_as_json(here: Path, cli: Cli) -> None:
    shown = cli("reproduce", "table5", "--out", "out")
    assert (shown.exit_code, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0] == "Table 5: Parameters and work of the sub-models"
    assert lines[3].split() == ["sub_1", "1.42M", "1.42M", "2.85M", "2.85M", "116.3M", "36", "%"]
    assert lines[-1] == "written: out/table5.json, out/table5.md"
    content = json.loads(cli("reproduce", "table5", "--out", "out", "--json").stdout)
    assert [row["name"] for row in content["rows"]] == ["sub_1", "sub_2", "sub_3", "main"]
    assert {"name", "params", "paper_flop", "macs"} <= set(content["rows"][0])
    assert cli("reproduce", "table5", "--out", "out", "--quiet").stdout == ""


def test_runs_are_shown_on_stderr_and_results_on_stdout(here: Path, cli: Cli) -> None:
    arguments = ["reproduce", "figure3", "--scale", "tiny", "--set", "train.iterations=2", "--device", "cpu"]
    result = cli(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert (content["name"], content["scale"]) == ("figure3", "tiny")
    keys = {"name", "dataset", "mean", "std", "seeds", "paper_mean", "paper_std"}
    assert all(keys <= set(row) for row in content["rows"])
    assert result.stderr.startswith("run 1 of 1: lc_3 on digits, seed 0\n")
    again = cli(*arguments)
    assert again.stderr == ""  # the run is there already
    assert "written: reproduce/tiny/figure3.json, " in again.stdout
    assert "  data.source of cifar10: digits here, cifar10 in the paper" in again.stdout


def test_of_several_processes_all_train_and_the_first_alone_makes_the_table(
    here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["reproduce", "figure3", "--scale", "tiny", "--set", "train.iterations=2", "--device", "cpu"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    helped = cli(*arguments)
    assert (helped.exit_code, helped.stdout, helped.stderr) == (0, "", "")
    assert not (here / "reproduce" / "tiny" / "figure3.json").exists()
    monkeypatch.setenv("RANK", "0")
    first = cli(*arguments)
    assert (first.exit_code, first.stderr) == (0, "")  # the run is there already
    assert "written: reproduce/tiny/figure3.json, " in first.stdout


def test_wrong_usage(here: Path, cli: Cli) -> None:
    for arguments in (
        ["table10"],
        ["table1", "--scale", "huge"],
        ["table1", "--seeds", "0"],
        ["table1", "--dataset", "mnist"],
        [],
    ):
        result = cli("reproduce", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
    assert list(here.iterdir()) == []


def test_what_cannot_be_done(here: Path, refused: Refused) -> None:
    error = refused("reproduce", "table9")
    assert (error["kind"], error["problem"]) == ("data", "there is no folder data")
    assert "--data-root" in error["fix"]
    error = refused("reproduce", "figure6", "--dataset", "cifar100")
    assert (error["kind"], error["fix"]) == ("recipe", "leave --dataset out, or choose from cifar10")
    (here / "file").write_text("")
    error = refused("reproduce", "table5", "--out", "file")
    assert error["fix"] == "give --out a folder that you may write to"
    error = refused("reproduce", "table1", "--set", "train.lrr=1", "--scale", "tiny")
    assert error["fix"] == "did you mean train.lr?"


def test_missing_images_are_named(here: Path, refused: Refused) -> None:
    (here / "data").write_text("no folder")  # so that nothing can be fetched into it
    error = refused("reproduce", "table1", "--scale", "small", "--dataset", "cifar10")
    assert error["kind"] == "data"
    assert "CIFAR10 is not (or not whole) in" in error["problem"]
