"""`lcprune resume`: what it goes on from, what it may change, and what it leaves alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcprune import runs

Cli = Callable[..., Any]
Refused = Callable[..., dict[str, str]]


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["resume", "profile", "select", "export", "evaluate", "report"])
def test_a_folder_that_is_no_run(here: Path, refused: Refused, command: str) -> None:
    assert refused(command) == {
        "kind": "run",
        "problem": "there is no run here: runs/latest is missing",
        "fix": "train one first: lcprune train RECIPE",
    }
    assert refused(command, "nothing")["problem"] == "there is no run nothing"
    (here / "pictures").mkdir()
    error = refused(command, "pictures")
    assert error["problem"] == "pictures is no run folder: it has no recipe.yaml"
    assert error["fix"] == "name a folder that lcprune train wrote"


@pytest.mark.parametrize("command", ["profile", "select", "export", "evaluate", "report"])
def test_a_run_that_is_not_finished_says_how_to_finish_it(run: Path, refused: Refused, command: str) -> None:
    for name in (runs.WEIGHTS, runs.PREDICTIONS, runs.PROFILE):
        (run / name).unlink()
    assert refused(command, "runs/digits-1")["fix"] == "run this first: lcprune resume runs/digits-1"


def test_a_finished_run_is_left_as_it_is(run: Path, cli: Cli) -> None:
    cli("select", "--max-drop", "50", "--quiet")
    before = contents(run)
    result = cli("resume", "--json")
    assert result.exit_code == 0, result.stderr
    assert contents(run) == before
    with np.load(run / runs.PREDICTIONS) as arrays:
        correct = (arrays["test_logits"].argmax(2) == arrays["test_labels"]).mean(1)
    content = json.loads(result.stdout)
    assert content["test_accuracy_pct"] == pytest.approx(100 * correct, abs=1e-9)
    assert (content["run"], content["iterations"]) == (str(run), 60)
    assert cli("verify").exit_code == 0


def test_a_longer_run_forgets_what_was_decided_on_the_shorter_one(run: Path, cli: Cli) -> None:
    cli("select", "--max-drop", "50", "--quiet")
    cli("export", "--progressive", "--exits", "1,2,3", "--max-drop", "50", "--quiet")
    assert (run / runs.THRESHOLDS).is_file()
    cli("report", "--no-rdm", "--quiet")
    cli("report", "--no-rdm", "--quiet", "--output", str(run / "mine.html"))
    assert {runs.REPORT, "mine.html"} <= set(runs.recorded_files(run))
    result = cli("resume", "--set", "train.iterations=61")
    assert result.exit_code == 0, result.stderr
    assert "selection.json and thresholds.json removed: the network has changed since" in result.stderr
    assert not (run / runs.SELECTION).exists()
    assert not (run / runs.THRESHOLDS).exists()
    assert "mine.html and report.html removed: the network has changed since; report again" in result.stderr
    assert list(run.glob("*.html")) == []
    verified = cli("verify")
    assert verified.exit_code == 1
    assert "export/progressive.onnx does not belong to the weights.safetensors and predictions.npz" in verified.stderr
    assert f"fix: make it again: lcprune export {run}" in verified.stderr
    assert "iterations: 61" in (run / runs.RECIPE).read_text()


def test_a_run_cannot_become_shorter_than_it_is(run: Path, refused: Refused) -> None:
    before = contents(run)
    error = refused("resume", "--set", "train.iterations=59")
    assert (error["kind"], error["fix"]) == ("run", "resume to a greater length, or train a new run")
    assert error["problem"].endswith("digits-1 has done 60 steps already, which is more than 59")
    assert contents(run) == before


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.lr=0.5", "resume cannot change train.lr: the run would no longer be what its recipe says"),
        ("nonsense", "resume cannot change nonsense"),
        ("train.iterations=many", "train.iterations"),
        ("train.iterations", "--set train.iterations is no KEY=VALUE"),
    ],
)
def test_what_resume_may_not_change(run: Path, refused: Refused, override: str, problem: str) -> None:
    before = contents(run)
    assert problem in refused("resume", "--set", override)["problem"]
    assert contents(run) == before


def test_a_truncated_checkpoint(run: Path, cli: Cli) -> None:
    last = run / "checkpoints/last.pt"
    whole = contents(run)
    last.write_bytes(last.read_bytes()[:-100])
    result = cli("resume")
    assert result.exit_code == 0, result.stderr
    assert "checkpoints/last.pt is damaged (" in result.stderr
    assert "; going on from the checkpoint before it\ngoing on from step 40\n" in result.stderr
    assert contents(run)["weights.safetensors"] == whole["weights.safetensors"]


def test_two_truncated_checkpoints(run: Path, refused: Refused) -> None:
    for name in ("last.pt", "last_good.pt"):
        path = run / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:100])
    before = contents(run)
    error = refused("resume")
    assert error["kind"] == "run"
    assert error["problem"].count("is damaged") == 2
    assert "last_good.pt is damaged" in error["problem"]
    assert error["fix"] == "train again: no checkpoint of this run can be read"
    assert contents(run) == before


def test_a_checkpoint_of_another_network(run: Path, refused: Refused) -> None:
    recipe = run / runs.RECIPE
    recipe.write_text(recipe.read_text().replace("width: 0.0625", "width: 0.125"))
    error = refused("resume")
    assert error["problem"].startswith("the checkpoint belongs to another network (")
    assert error["fix"] == "resume with its own recipe"


def test_runs_latest_is_followed_and_may_dangle(run: Path, cli: Cli, refused: Refused) -> None:
    assert json.loads(cli("resume", "--json").stdout)["run"] == str(run)
    shutil.rmtree(run)
    assert refused("resume")["problem"] == "there is no run here: runs/latest is missing"
