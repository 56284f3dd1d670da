"""Runs are trained once, resumed where they were stopped, and shared between processes."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.errors import Interrupted, RunError, TrainingError
from lcprune.paper import paper_runs, work
from lcprune.paper.paper_runs import PaperRun
from lcprune.paper.scales import SCALES
from lcprune.paper.work import Workspace, complete
from lcprune.pipeline import train as training

START = [sys.executable, "-c", "from lcprune.cli import main; main()"]


class Listener:
    """Calls back after every step."""

    def __init__(self, each_step: Callable[[int], None] = lambda _: None) -> None:
        self.each_step = each_step
        self.steps: list[int] = []

    def stepped(self, step: int, _: Any) -> None:
        self.steps.append(step)
        self.each_step(step)

    def evaluated(self, _: Any) -> None: ...


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def workspace(here: Path, said: list[str], listener: Listener) -> Workspace:
    return Workspace(here / "out", here, "cpu", lambda *_: nullcontext(listener), said.append)


def paper_run(run: str = "bp", seed: int = 0) -> PaperRun:
    return paper_runs.paper_run(run, "cifar10", seed, SCALES["tiny"])


def weights(folder: Path) -> bytes:
    return (folder / runs.WEIGHTS).read_bytes()


def test_a_finished_run_is_not_run_again(workspace: Workspace, listener: Listener, said: list[str]) -> None:
    (first,) = complete([paper_run()], workspace)
    assert (first.folder, first.failed) == (workspace.out / "digits/bp/seed-0", None)
    assert listener.steps == list(range(1, 21))
    before = weights(first.folder)
    (again,) = complete([paper_run()], workspace)
    assert again.folder == first.folder
    assert len(listener.steps) == 20
    assert weights(first.folder) == before
    assert said == ["run 1 of 1: bp on digits, seed 0", f"run folder: {first.folder}"]
    assert not runs.LATEST.is_symlink()  # what a person trained last stays the newest run


def test_an_interrupted_run_goes_on_to_the_same_result(
    workspace: Workspace, listener: Listener, said: list[str]
) -> None:
    listener.each_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 13 else None
    with pytest.raises(Interrupted, match="interrupted at step 14: saved; go on with the same command again"):
        complete([paper_run(), paper_run(seed=1)], workspace)
    listener.each_step = lambda _: None
    assert not (workspace.out / "digits/bp/seed-1" / runs.RECIPE).exists()
    outcomes = complete([paper_run(), paper_run(seed=1)], workspace)
    assert "going on from step 14" in said
    assert listener.steps == [*range(1, 15), *range(15, 21), *range(1, 21)]
    other = Workspace(workspace.out.parent / "whole", workspace.data_root, "cpu", workspace.display, workspace.notice)
    (unbroken,) = complete([paper_run()], other)
    assert weights(outcomes[0].folder) == weights(unbroken.folder)


@pytest.mark.parametrize("left", [[], [runs.RECIPE], [runs.RECIPE, runs.ENVIRONMENT]], ids=str)
def test_what_a_process_left_that_died_at_once_is_trained_from_the_start(
    workspace: Workspace, listener: Listener, left: list[str]
) -> None:
    folder = paper_run().folder(workspace.out)
    (folder / runs.CHECKPOINTS).mkdir(parents=True)
    for name in left:
        (folder / name).write_text(recipes.dump(paper_run().recipe) if name == runs.RECIPE else "{}")
    complete([paper_run()], workspace)
    assert listener.steps == list(range(1, 21))
    assert (folder / runs.PREDICTIONS).is_file()


def test_a_folder_that_holds_something_else_is_left_alone(workspace: Workspace) -> None:
    folder = paper_run().folder(workspace.out)
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is there already and holds something"):
        complete([paper_run()], workspace)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_a_run_of_another_recipe_is_refused(workspace: Workspace) -> None:
    (done,) = complete([paper_run()], workspace)
    path = done.folder / runs.RECIPE
    path.write_text(path.read_text().replace("iterations: 20", "iterations: 21"))
    with pytest.raises(RunError, match="seed-0 holds a run of another recipe") as caught:
        complete([paper_run()], workspace)
    assert "give --out another folder" in caught.value.fix


def test_a_run_that_fails_is_recorded_and_the_others_go_on(
    workspace: Workspace, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = training.train

    def fail(recipe: recipes.Recipe, **options: Any) -> Any:
        if recipe.train.seed == 0:
            runs.create(recipe, options["out"], is_latest=options["is_latest"])
            raise TrainingError("the loss is no longer a finite number at step 3", "lower the learning rate")
        return train(recipe, **options)

    monkeypatch.setattr(training, "train", fail)
    first, second = complete([paper_run(), paper_run(seed=1)], workspace)
    assert (first.failed, second.failed) == ("the loss is no longer a finite number at step 3", None)
    assert complete([paper_run()], workspace)[0].failed == first.failed  # not tried again
    assert said[-1].endswith(f"to try it again, remove {first.folder}")


def test_a_run_that_another_process_has_is_left_for_the_end_and_waited_for(
    workspace: Workspace, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "POLL_S", 0.01)
    holding, release = threading.Event(), threading.Event()

    def hold() -> None:  # a lock belongs to the open file: another one of this process is another holder
        with work.exclusive(paper_run().folder(workspace.out).with_name("seed-0.lock"), wait=True):
            holding.set()
            release.wait(60)

    def notice(message: str) -> None:
        said.append(message)
        if message.startswith("waiting"):
            release.set()

    holder = threading.Thread(target=hold)
    holder.start()
    assert holding.wait(60)
    told = replace(workspace, notice=notice)
    first, second = complete([paper_run(), paper_run(seed=1)], told)
    holder.join()
    assert [text for text in said if not text.startswith("run folder")] == [
        "run 1 of 2: bp on digits, seed 1",
        "waiting for another process, which trains: bp on digits, seed 0",
        "run 2 of 2: bp on digits, seed 0",
    ]
    assert (first.failed, second.failed) == (None, None)


@pytest.mark.slow
def test_two_processes_do_no_run_twice(here: Path) -> None:
    command = [*START, "reproduce", "table4", "--scale", "tiny", "--seeds", "2", "--out", "out", "--json"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    trained = [line for _, errors in ended for line in errors.splitlines() if line.startswith("run folder")]
    assert len(trained) == len(set(trained)) == 8  # bp_sub_1, 2, 3 and lc_3, two seeds each
    one, other = (json.loads(output) for output, _ in ended)
    assert one["rows"] == other["rows"]
    assert all(row["seeds"] == 2 for row in one["rows"])
