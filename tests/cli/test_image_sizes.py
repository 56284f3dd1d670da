"""A run of several input sizes, from the recipe to progressive files, by the commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from lcprune import runs
from lcprune.data.sources import read_digits
from lcprune_runtime.session import ProgressiveSession

Cli = Callable[..., Any]

NETWORK = """
from torch import nn


def build(classes):
    first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    last = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(first, nn.Sequential(last, nn.Flatten(), nn.Linear(16, classes)))
"""
RECIPE = """
name: sizes
data: {source: digits, image_size: [8, 4], val_size: 300, batch_size: 64}
model: {trunk: "sized_net:build", groups: 2}
critics: {head: global, batch_norm: true}
train: {method: deep_supervision, iterations: 100, lr: 0.2, schedule: one_cycle, average: 0.1, checkpoint_every: 50}
logging: {every: 20}
"""
NAMES = ["sub-model 1 at 4 px", "main at 4 px", "sub-model 1 at 8 px", "main at 8 px"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    (folder / "sized_net.py").write_text(NETWORK)
    (folder / "sizes.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Path:
    monkeypatch.chdir(trained)
    if not (trained / "runs").exists():
        cli("train", "sizes.yaml")
    return trained


def test_weights_are_stored_once_and_the_run_opens_again(here: Path, cli: Cli) -> None:
    run = runs.open_run(here / runs.LATEST)[0]
    with safe_open(run / runs.WEIGHTS, "np") as weights:
        names = list(weights.keys())
    assert sum("groups.0" in name and name.endswith("0.0.0.weight") for name in names) <= 1
    predictions = runs.read_predictions(run)
    assert predictions["val_logits"].shape == (4, 300, 10)
    content = json.loads(cli("profile", "--json").stdout)
    assert [row["name"] for row in content["exits"]] == NAMES
    assert [row["image_size"] for row in content["exits"]] == [4, 4, 8, 8]


def test_selection_names_exits_at_sizes(here: Path, cli: Cli) -> None:
    content = json.loads(cli("select", "--max-drop", "90", "--json").stdout)
    assert content["selected"]["name"] == min(content["candidates"], key=lambda one: one["macs"])["name"]
    assert content["reference"]["name"] == NAMES[-1]
    only = json.loads(cli("select", "--max-drop", "90", "--exits", "main@4,1@8", "--json").stdout)
    assert only["selected"]["name"] in NAMES[1:3]
    exported = json.loads(cli("export", "--json").stdout)
    assert exported["name"] == only["selected"]["name"]


@pytest.mark.parametrize(
    "options", [[], ["--precision", "int8"], ["--layout", "flat"], ["--batch", "1"], ["--segments"]]
)
def test_a_progressive_file_takes_whole_images_and_agrees_with_the_run(
    here: Path, cli: Cli, options: list[str]
) -> None:
    result = json.loads(
        cli("export", "--progressive", "--exits", "1@4,main@4", "--threshold", "0.5", *options, "--json").stdout
    )
    assert result["exits"] == [NAMES[0], NAMES[1], NAMES[3]]
    images, labels = read_digits()[1].images, read_digits()[1].labels
    found = ProgressiveSession(result["path"])(images)
    assert 100 * np.mean(found.labels == labels) == pytest.approx(result["test_accuracy_pct"])
    assert np.bincount(found.exit_indices, minlength=3) / len(labels) == pytest.approx(result["exit_fractions"])
    evaluated = json.loads(cli("evaluate", result["path"], "--data", "sizes.yaml", "--json").stdout)
    assert [row["name"] for row in evaluated["exits"]] == result["exits"]
    assert "1@4+main@4+main@8" in evaluated["ensembles"]


def test_an_exit_at_a_size_is_exported_by_its_name(here: Path, cli: Cli, refused: Cli) -> None:
    result = json.loads(cli("export", "--exit", "main@4", "--json").stdout)
    assert (result["name"], Path(result["path"]).name) == (NAMES[1], "main-at-4.onnx")
    assert json.loads(cli("export", "--exit", "main", "--json").stdout)["name"] == NAMES[3]
    error = refused("export", "--exit", "3@4")
    assert error["problem"] == "there is no sub-model 3@4 in this run"
    assert error["fix"] == "name one of 1@4, main@4, 1@8, main"


def test_budget_and_report_know_the_sizes(here: Path, cli: Cli) -> None:
    result = json.loads(cli("export", "--progressive", "--max-drop", "20", "--json").stdout)
    assert result["macs_ratio"] < 1
    all_leave = cli("export", "--progressive", "--threshold", "0")
    assert "all images leave at sub-model 1 at 4 px: export it alone with --exit 1@4" in all_leave.stderr
    done = cli("report")
    assert done.exit_code == 0, done.stderr
    page = (runs.open_run(here / runs.LATEST)[0] / "report.html").read_text()
    assert all(name in page for name in NAMES)
