"""The benchmark of a training step runs and says what it promises; its figures are no matter of a test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lcprune import recipe
from lcprune.analysis.profile import profile
from lcprune.models import build

ROOT = Path(__file__).parents[2]
TINY = ["--recipe", "digits", "--set", "data.batch_size=4", "--set", "model.width=0.1", "--device", "cpu"]


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.train_step", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("repeats", [1, 3])
def test_json_holds_the_ratio_and_what_the_work_explains(repeats: int) -> None:
    report = json.loads(run("--json", "--repeats", str(repeats), *TINY))
    network = build(recipe.load("digits", ["model.width=0.1"]), 10, (1, 8, 8), (0.5,), (0.25,))
    cost = profile(network, (1, 8, 8))
    assert report["mac_ratio"] == (sum(cost.group_macs) + sum(cost.critic_macs)) / sum(cost.group_macs)
    assert report["limit"] == pytest.approx(1.10 * report["mac_ratio"])
    assert report["met"] == (report["lc_over_bp"] <= report["limit"])
    (row,) = report["rows"]
    assert row["lc_over_bp"] == report["lc_over_bp"] == row["lc_ms"] / row["bp_ms"]
    assert row["lc_over_bp_quartiles"] == sorted(row["lc_over_bp_quartiles"])
    assert row["batch_size"] == 4
    assert (report["repeats"], report["seed"]) == (repeats, 0)
    assert {"python", "torch"} <= set(report["versions"])
    assert set(report["machine"]) == {"cpu", "cores", "threads", "system"}


def test_the_table_says_whether_the_limit_is_met() -> None:
    table = run("--repeats", "1", *TINY)
    assert "local_critic" in table
    assert "backprop" in table
    assert table.rstrip().endswith(" met")
