"""`lcprune evaluate` of a run: keys, table, and runs without images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcprune import runs

Cli = Callable[..., Any]


def test_the_result_as_json(run: Path, cli: Cli) -> None:
    result = cli("evaluate", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    content = json.loads(result.stdout)
    assert set(content) == {"split", "samples", "exits", "ensembles", "ensemble_kinds", "progressive"}
    assert (content["split"], content["samples"]) == ("test", 360)
    assert [set(row) for row in content["exits"]] == [
        {"name", "exit_index", "accuracy_pct", "balanced_accuracy_pct"}
    ] * 4
    assert set(content["ensembles"]) == {"1+2+3", "1+2+3+main"}
    assert [set(row) for row in content["ensemble_kinds"]] == [{"members", "kind", "accuracy_pct", "weights"}] * 6
    summed = {row["members"]: row["accuracy_pct"] for row in content["ensemble_kinds"] if row["kind"] == "logits"}
    assert summed == content["ensembles"]
    keys = {"threshold", "accuracy_pct", "mean_macs", "macs_ratio", "exit_fractions"}
    assert [set(row) for row in content["progressive"]] == [keys] * 7
    assert [row["threshold"] for row in content["progressive"]] == [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]


def test_the_table(run: Path, cli: Cli) -> None:
    lines = cli("evaluate").stdout.splitlines()
    assert lines[0].split() == ["exit", "accuracy", "%"]
    assert lines[5].startswith("ensemble 1+2+3 ")
    assert lines[6].split()[:3] == ["sum", "of", "probabilities"]
    assert lines[7].split()[0] == "weighted"
    assert sum(float(weight) for weight in lines[7].split()[1:4]) == pytest.approx(1, abs=0.02)
    assert lines[11].split()[:3] == ["threshold", "accuracy", "%"]
    assert lines[-1] == "test: 360 images"


def test_validation_stands_in_for_absent_test_images_and_nothing_for_both(
    shaped_run: Callable[..., Path], cli: Cli, refused: Callable[..., dict[str, str]]
) -> None:
    shaped_run([[1, 0], [1, 0], [1, 1], [1, 1]])
    content = json.loads(cli("evaluate", "--json").stdout)
    assert (content["split"], content["samples"]) == ("val", 2)
    assert [row["accuracy_pct"] for row in content["exits"]] == [50, 50, 100, 100]
    shaped_run(None, None)
    error = refused("evaluate")
    assert error["problem"].endswith("digits-1 has neither test nor validation images")
    assert error["fix"] == "train with data.val_size above 0, or add test images"


def test_predictions_that_were_changed(run: Path, refused: Callable[..., dict[str, str]]) -> None:
    path = run / runs.PREDICTIONS
    path.write_bytes(path.read_bytes()[:-10])
    error = refused("evaluate", "runs/digits-1")
    assert error["problem"] == "runs/digits-1/predictions.npz is not what was written: its SHA-256 has changed"
    assert error["fix"] == "restore it, or run: lcprune resume runs/digits-1"
    (run / runs.MANIFEST).unlink()
    assert refused("evaluate", "runs/digits-1")["problem"].startswith("runs/digits-1/predictions.npz is damaged (")


def test_flip_says_what_it_shows(run: Path, cli: Cli) -> None:
    result = cli("evaluate", "--flip", "--json")
    assert result.exit_code == 0
    assert result.stderr == "every logit is the mean over an image and its mirror image\n"
    content, plain = json.loads(result.stdout), json.loads(cli("evaluate", "--json").stdout)
    assert set(content) == {*plain, "flip"}
    assert content["exits"] != plain["exits"]
    assert cli("evaluate", "--flip", "--quiet").stderr == ""


def test_a_file_cannot_be_evaluated_with_flip(run: Path, refused: Callable[..., dict[str, str]]) -> None:
    error = refused("evaluate", "runs/digits-1/export/progressive.onnx", "--data", "digits", "--flip")
    assert error["problem"].startswith("--flip needs the weights of a run: ")
    assert error["fix"] == "leave --flip out, or name the run"
