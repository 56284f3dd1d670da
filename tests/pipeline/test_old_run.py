"""A run of version 0.1.0 (digits at 3 % of the width), with a selection and an export, is opened by all commands."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RUN = Path(__file__).parents[1] / "fixtures" / "run_0_1_0"

Cli = Callable[..., Any]


@pytest.fixture
def old(here: Path) -> Path:
    return Path(shutil.copytree(RUN, here / "old"))


def said(cli: Cli, *arguments: str | Path) -> dict[str, Any]:
    result = cli(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_the_fixture_is_of_0_1_0_and_small() -> None:
    assert json.loads((RUN / "environment.json").read_text(encoding="utf-8"))["lcprune"] == "0.1.0"
    assert sum(path.stat().st_size for path in RUN.rglob("*") if path.is_file()) < 500_000


def test_its_files_are_verified_selected_from_and_evaluated(old: Path, cli: Cli) -> None:
    assert cli("verify", old).exit_code == 0
    before = json.loads((old / "selection.json").read_text(encoding="utf-8"))
    chosen = said(cli, "select", old, "--max-drop", "3")
    assert chosen["selected"]["name"] == before["selected"]["name"]
    kept = ("name", "macs", "params", "val_accuracy_pct", "test_accuracy_pct", "drop_pct")
    for now, then in zip(chosen["candidates"], before["candidates"], strict=True):
        assert {key: now[key] for key in kept} == {key: then[key] for key in kept}
    accuracies = [row["accuracy_pct"] for row in said(cli, "evaluate", old)["exits"]]
    assert accuracies == pytest.approx([row["test_accuracy_pct"] for row in before["candidates"]])


@pytest.mark.slow
def test_its_network_is_exported_and_its_export_still_runs(old: Path, cli: Cli) -> None:
    path = old / "export" / "progressive.onnx"
    by_then = said(cli, "evaluate", path, "--data", "digits")["progressive"]
    thresholds = json.loads((old / "thresholds.json").read_text(encoding="utf-8"))["thresholds"]
    assert [row["threshold"] for row in by_then if isinstance(row["threshold"], list)] == [pytest.approx(thresholds)]
    exported = said(cli, "export", old, "--format", "onnx", "--progressive", "--max-drop", "4")
    assert exported["parity"]["exits_agree"]
    assert exported["expected_drop_pct"] <= 4


def test_it_is_reported_and_resumed(old: Path, cli: Cli) -> None:
    assert cli("report", old).exit_code == 0
    assert (old / "report.html").stat().st_size > 10_000
    assert said(cli, "resume", old)["iterations"] == 300
    assert cli("verify", old).exit_code == 0
