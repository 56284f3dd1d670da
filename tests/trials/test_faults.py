"""The trials behind docs/reliability.md, a few of each."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trials.faults import __main__ as faults
from tests.trials.faults import soak
from tests.trials.faults.training import differences
from tests.trials.torchrun import Started, environment, torchrun


@pytest.mark.slow
@pytest.mark.parametrize(("name", "trials"), [(name, few) for name, (*_, few) in faults.TRIALS.items() if few])
def test_few_trials(name: str, trials: int) -> None:
    share = str(trials / faults.TRIALS[name][1])
    command = [sys.executable, "-m", "tests.trials.faults", "--only", name, "--share", share]
    done = subprocess.run(command, cwd=faults.ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{name}: {trials} trials, 0 failures, ")


def begun(folder: Path, name: str, *more: str, options: tuple[str, ...] = ()) -> Started:
    command = ("train", "ranks.yaml", "--parallel", "layers", "--out", str(folder / name), *more)
    return torchrun(2, *command, cwd=folder, options=options)


@pytest.mark.slow
def test_a_stopped_process_is_named(tmp_path: Path) -> None:
    started = begun(tmp_path, "run", "--timeout", "5", "--set", "train.iterations=20000")
    assert started.reaches(tmp_path / "run", 10), started.printed
    started.send(signal.SIGSTOP, 1)
    assert started.wait(70)  # torchrun itself waits for half a minute before it kills what does not end
    assert len(started.errors) == 1
    assert "rank 1 (layer group" in started.errors[0]


@pytest.mark.slow
def test_torchrun_restarts_what_was_killed(tmp_path: Path) -> None:
    assert begun(tmp_path, "whole").wait(120) == 0
    started = begun(tmp_path, "run", options=("--max-restarts=2",))
    for rank, step in ((1, 40), (0, 100)):
        assert started.reaches(tmp_path / "run", step), started.printed
        started.send(signal.SIGKILL, rank)
    assert started.wait(120) == 0, started.printed
    assert "started again after a process was lost" in started.printed
    assert differences(tmp_path / "run", tmp_path / "whole") == []


def test_a_short_soak_counts_its_lines(here: Path) -> None:
    found = soak.soak(here, 200, 0)
    assert found.figures["log_lines"] == 20  # ten intervals, and an evaluation at the end of each
    assert not [line for line in found.failures if "lines" in line]


def test_the_table_is_that_of_the_results() -> None:
    page = faults.PAGE.read_text(encoding="utf-8")
    rows = json.loads(faults.RESULT.read_text(encoding="utf-8"))["rows"]
    assert faults.with_table(page, rows) == page
    assert [row["name"] for row in rows] == list(faults.TRIALS)
    row = {"promise": "It holds.", "name": "x", "trials": 1200, "failures": ["a", "b"], "seconds": 3.4}
    once = faults.with_table(page, [row])
    assert "| It holds. | 1,200 | 2 | `x` | 3 |" in once
    begin, end = faults.MARKS
    assert once.partition(begin)[0] == page.partition(begin)[0]
    assert once.partition(end)[2] == page.partition(end)[2]
