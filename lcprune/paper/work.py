"""Training the runs that are missing: resumed where they were stopped, shared between processes, each done once."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lcprune import runs
from lcprune.errors import Interrupted, RunError, TrainingError
from lcprune.paper.paper_runs import PaperRun, trains_the_same
from lcprune.pipeline import train as training
from lcprune.pipeline.train import Display, Notice
from lcprune.recipe import Recipe

POLL_S = 2.0
"""Between two attempts to take over a run of another process."""
FAILURE = "failure.json"
"""In a run folder: why it could not be finished."""


@dataclass(frozen=True)
class Workspace:
    """Where runs are trained, and how."""

    out: Path
    data_root: Path | None
    device: str
    display: Display
    notice: Notice


@dataclass(frozen=True)
class Outcome:
    """The result of training a run."""

    paper_run: PaperRun
    folder: Path
    failed: str | None = None
    """What went wrong in training, such as a loss that is no longer finite; then there are no results."""


def complete(paper_runs: Sequence[PaperRun], workspace: Workspace) -> list[Outcome]:
    """Every run finished, in the given order; those that another process trains are waited for at the end.

    Raises:
        RunError: If a folder holds another run.
        Interrupted: After Ctrl-C or SIGTERM; the run that was being trained is saved.
    """
    found: dict[PaperRun, Outcome] = {}
    waiting = False
    while pending := [paper_run for paper_run in paper_runs if paper_run not in found]:
        if waiting:
            time.sleep(POLL_S)
        for paper_run in pending:
            outcome = _attempt(paper_run, workspace, f"{len(found) + 1} of {len(paper_runs)}")
            if outcome is not None:
                found[paper_run] = outcome
        if not waiting and (locked := [paper_run.title for paper_run in pending if paper_run not in found]):
            workspace.notice(f"waiting for another process, which trains: {'; '.join(locked)}")
        waiting = True
    return [found[paper_run] for paper_run in paper_runs]


def _attempt(paper_run: PaperRun, workspace: Workspace, number: str) -> Outcome | None:
    """The finished run, or None where another process trains it."""
    folder = paper_run.folder(workspace.out)
    with exclusive(folder.with_name(f"{folder.name}.lock"), wait=False) as mine:
        if not mine:
            return None
        if (folder / FAILURE).exists():  # it would fail again at the same step
            failed = str(runs.read_json(folder / FAILURE)["problem"])
            workspace.notice(f"{paper_run.title} failed before ({failed}); to try it again, remove {folder}")
            return Outcome(paper_run, folder, failed)
        if _is_finished(folder, paper_run.recipe):
            return Outcome(paper_run, folder)
        workspace.notice(f"run {number}: {paper_run.title}")
        try:
            _train(folder, paper_run.recipe, workspace)
        except TrainingError as error:
            runs.write_json(folder / FAILURE, {"problem": error.problem})
            workspace.notice(f"{paper_run.title} failed: {error.problem}; going on with the others")
            return Outcome(paper_run, folder, error.problem)
        except Interrupted as error:
            raise Interrupted(error.problem, "go on with the same command again") from None
        return Outcome(paper_run, folder)


def _train(folder: Path, recipe: Recipe, workspace: Workspace) -> None:
    """From the start, or on from where it was stopped."""
    device, display, notice = workspace.device, workspace.display, workspace.notice
    if _can_resume(folder):
        training.resume(folder, (), device=device, display=display, notice=notice)
    else:  # a table makes many runs, and none of them is the one that a person trained last
        root = workspace.data_root
        training.train(
            recipe, out=folder, is_latest=False, data_root=root, device=device, display=display, notice=notice
        )


def _is_finished(folder: Path, recipe: Recipe) -> bool:
    """Whether the run's predictions are written.

    Raises:
        RunError: If the folder holds another run.
    """
    if not (folder / runs.RECIPE).is_file():
        return False
    stored = runs.open_run(folder)[1]
    if not trains_the_same(stored, recipe):
        raise RunError(
            f"{folder} holds a run of another recipe, which is not of this table",
            "give --out another folder, or remove that one",
        )
    return (folder / runs.PREDICTIONS).is_file()


def _can_resume(folder: Path) -> bool:
    """Whether there is something to resume; removes what a process left that ended before its first checkpoint."""
    if (folder / runs.RECIPE).is_file() and (folder / runs.DATASET).is_file():
        return True
    left = {path.name.removesuffix(".part") for path in folder.iterdir()} if folder.is_dir() else set()
    nothing_trained = not (folder / runs.CHECKPOINTS).is_dir() or not any((folder / runs.CHECKPOINTS).iterdir())
    if left <= {runs.RECIPE, runs.ENVIRONMENT, runs.DATASET, runs.MANIFEST, runs.CHECKPOINTS} and nothing_trained:
        shutil.rmtree(folder, ignore_errors=True)
    return False


@contextmanager
def exclusive(path: Path, *, wait: bool) -> Iterator[bool]:
    """Whether the lock on a file was acquired. It ends with its process, however that ends.

    Raises:
        RunError: If the file cannot be made.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait)
    except Timeout:
        pass  # another process has it
    except OSError as error:
        raise RunError(
            f"{path} cannot be made: {error.strerror}", "give --out a folder that you may write to"
        ) from None
    try:
        yield lock.is_locked
    finally:
        lock.release()
