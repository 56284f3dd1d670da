"""Run folders: making a new one, opening one, and the lock of the process that trains in it."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lcprune import recipe as recipes
from lcprune.errors import RunError
from lcprune.recipe import Recipe
from lcprune.runs.files import flush_folder, remove_quietly, write_text
from lcprune.runs.layout import CHECKPOINTS, DATASET, ENVIRONMENT, LATEST, MANIFEST, RECIPE, RUNS
from lcprune.runs.locks import locked

_BEGUN = {CHECKPOINTS, ENVIRONMENT, DATASET, MANIFEST, RECIPE + ".part"}
"""All that a run folder may hold before its recipe is written, which makes it a run."""


def create(
    recipe: Recipe, out: Path | None, prepare: Callable[[Path], None] = lambda _: None, *, is_latest: bool = True
) -> Path:
    """A new run folder, ``runs/<name>-<n>`` or `out`, with the resolved recipe in it.

    Args:
        recipe: Of the run.
        out: The folder; one in which a training ended before its recipe was written is reused.
        prepare: Writes what must exist before the recipe, which makes the folder a run.
        is_latest: Whether ``runs/latest`` names it from now on.

    Raises:
        RunError: If `out` holds something, or the folder cannot be made.
    """
    folder = RUNS if out is None else out
    try:
        folder = _next_folder(recipe.name) if out is None else out
        _check_free(folder)
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        for made in (folder, folder.parent, folder.parent.parent):
            flush_folder(made)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be made: {error.strerror}", "give --out a folder that you may write to"
        ) from None
    with lock(folder):
        _check_free(folder)  # another process may have been quicker
        prepare(folder)
        write_text(folder / RECIPE, recipes.dump(recipe))
    if is_latest:
        _point_latest_at(folder)
    return folder


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keeps every other process from training in `folder`; see `locked`.

    Raises:
        RunError: If another process has the lock.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, wait=False))
        except BlockingIOError:
            raise RunError(
                f"another process is training in {folder}",
                "wait until it has ended, or stop it; to train beside it, give --out another folder",
            ) from None
        yield


def open_run(folder: Path) -> tuple[Path, Recipe]:
    """A run folder that exists, and its recipe.

    Raises:
        RunError: If there is no run.
    """
    if not folder.exists():
        if folder == LATEST:
            raise RunError("there is no run here: runs/latest is missing", "train one first: lcprune train RECIPE")
        raise RunError(f"there is no run {folder}", "name a folder that lcprune train wrote")
    if not (folder / RECIPE).is_file():
        raise RunError(f"{folder} is no run folder: it has no {RECIPE}", "name a folder that lcprune train wrote")
    folder = folder.resolve() if folder == LATEST else folder
    return folder, recipes.load(folder / RECIPE)


def _check_free(folder: Path) -> None:
    """Refuses a folder that holds something other than what a training leaves that ended before it was a run."""
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    begun = CHECKPOINTS in names and all(name in _BEGUN or name.removesuffix(".part") in _BEGUN for name in names)
    if names and not (begun and not any((folder / CHECKPOINTS).iterdir())):
        raise RunError(f"{folder} is there already and holds something", "give --out a new folder, or leave it out")


def _next_folder(name: str) -> Path:
    """Makes the folder of the next free number; two processes never get the same."""
    for number in itertools.count(1):
        folder = RUNS / f"{name}-{number}"
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    return folder


def _point_latest_at(folder: Path) -> None:
    part = LATEST.with_name(f"latest.{os.getpid()}")
    try:
        RUNS.mkdir(exist_ok=True)
        part.symlink_to(os.path.relpath(folder, RUNS), target_is_directory=True)
        part.replace(LATEST)
    except OSError:  # no right to write here: the run can still be named by its path
        remove_quietly(part)
