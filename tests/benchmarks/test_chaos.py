"""The attempts to break what docs/reliability.md promises, with few trials."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos import __main__ as chaos
from benchmarks.chaos import numbers, ranks, same_bits, soak
from lcprune import runs

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "trials"), [("kill", 4), ("disk_full", 2), ("second", 1), ("belong", 4), ("flip", 26), ("ranks", 2)]
)
def test_few_trials(name: str, trials: int) -> None:
    command = [sys.executable, "-m", f"benchmarks.chaos.{name}", "--trials", str(trials)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads(done.stdout)
    assert (row["trials"], row["failures"]) == (trials, [])


def begun(folder: Path, name: str, *options: str, launch: tuple[str, ...] = ()) -> ranks.Started:
    (folder / "ranks.yaml").write_text(ranks.RECIPE, encoding="utf-8")
    command = ("train", "ranks.yaml", "--parallel", "layers", "--out", str(folder / name), *options)
    return ranks.torchrun(2, *command, cwd=folder, launch=launch)


@pytest.mark.slow
def test_a_process_that_stands_still_is_named(tmp_path: Path) -> None:
    started = begun(tmp_path, "run", "--timeout", "5", "--set", "train.iterations=20000")
    assert ranks.wait_for_step(tmp_path / "run", 10, started), started.said
    ranks.send(signal.SIGSTOP, started, 1)
    assert started.ends(70)  # torchrun itself waits for half a minute before it kills what does not end
    assert len(ranks.messages(started.said)) == 1
    assert "rank 1 (layer group" in ranks.messages(started.said)[0]


@pytest.mark.slow
def test_torchrun_starts_again_what_was_killed(tmp_path: Path) -> None:
    assert begun(tmp_path, "whole").ends(120) == 0
    started = begun(tmp_path, "run", launch=("--max-restarts=2",))
    for rank, step in ((1, 40), (0, 100)):
        assert ranks.wait_for_step(tmp_path / "run", step, started), started.said
        ranks.send(signal.SIGKILL, started, rank)
    assert started.ends(120) == 0, started.said
    assert "started again after a process was lost" in started.said
    for name in (runs.WEIGHTS, runs.PREDICTIONS):
        assert runs.sha256(tmp_path / "run" / name) == runs.sha256(tmp_path / "whole" / name)


def test_numbers_that_are_not_finite(here: Path) -> None:
    found = numbers.attempt(here, 9, 0)
    assert (found.trials, found.failures) == (9, ())


def test_the_same_bits(here: Path) -> None:
    assert same_bits.attempt(here, 1, 0).failures == ()


def test_a_short_soak_counts_its_lines(here: Path) -> None:
    found = soak.attempt(here, 200, 0)
    assert found.figures["log_lines"] == 20  # ten intervals, and an evaluation at the end of each
    assert not [line for line in found.failures if "lines" in line]


def test_the_page_has_a_place_for_the_table() -> None:
    page = chaos.PAGE.read_text(encoding="utf-8")
    row = {"promise": "It holds.", "command": "python -m x", "trials": 1200, "failures": ("a", "b"), "seconds": 3.4}
    once = chaos.with_table(page, [row])
    assert "| It holds. | 1,200 | 2 | `python -m x` | 3 |" in once
    assert chaos.with_table(once, [row]) == once
    assert once.partition(chaos.BEGIN)[0] == page.partition(chaos.BEGIN)[0]
    assert once.partition(chaos.END)[2] == page.partition(chaos.END)[2]


def test_the_table_is_that_of_the_results() -> None:
    page = chaos.PAGE.read_text(encoding="utf-8")
    if not chaos.RESULT.exists():
        assert "| promise |" not in page
        return
    rows = json.loads(chaos.RESULT.read_text(encoding="utf-8"))["rows"]
    assert chaos.with_table(page, rows) == page
    assert {re.sub(r".*chaos\.(\w+) .*", r"\1", row["command"]) for row in rows} == set(chaos.ATTEMPTS)
