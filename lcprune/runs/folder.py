"""Run folders: a new one, one that is there, and which process trains in it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lcprune import recipe as recipes
from lcprune.errors import RunError
from lcprune.recipe import Recipe
from lcprune.runs import locks
from lcprune.runs.files import flush_folder, remove_quietly, write_text
from lcprune.runs.layout import CHECKPOINTS, DATASET, ENVIRONMENT, LATEST, MANIFEST, RECIPE, RUNS

_BEGUN = {CHECKPOINTS, ENVIRONMENT, DATASET, MANIFEST, RECIPE + ".part"}
"""All that a run folder may hold before its recipe is in it, which makes it a run."""


def create(
    recipe: Recipe, out: Path | None, prepare: Callable[[Path], None] = lambda _: None, *, is_latest: bool = True
) -> Path:
    """A new run folder, ``runs/<name>-<n>`` or `out`, with the resolved recipe in it.

    Args:
        recipe: Of the run.
        out: The folder; one whose training died before the recipe was written is taken again.
        prepare: Writes what must be there before the recipe, which makes the folder a run.
        is_latest: Whether ``runs/latest`` names it from now on.

    Raises:
        RunError: If `out` holds something, or the folder cannot be made.
    """
    try:
        folder = _next_folder(recipe.name) if out is None else out
        if not _is_free(folder):
            raise _taken(folder)
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        for made in (folder, folder.parent, folder.parent.parent):
            flush_folder(made)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be made: {error.strerror}", "give --out a folder that you may write to"
        ) from None
    with lock(folder):
        if not _is_free(folder):  # another process was quicker
            raise _taken(folder)
        prepare(folder)
        write_text(folder / RECIPE, recipes.dump(recipe))
    if is_latest:
        _point_latest_at(folder)
    return folder


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keeps every other process from training in `folder`. It ends with the process, however that ends.

    It is a lock on the folder itself: no file is left behind. Where the file system has no locks, nothing is kept out.

    Raises:
        RunError: If another process has it.
    """
    try:
        handle = locks.take(folder, wait=False)
    except BlockingIOError:
        raise RunError(
            f"another process is training in {folder}",
            "wait until it has ended, or stop it; to train beside it, give --out another folder",
        ) from None
    try:
        yield
    finally:
        locks.release(handle)


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


def _taken(folder: Path) -> RunError:
    return RunError(f"{folder} is there already and holds something", "give --out a new folder, or leave it out")


def _is_free(folder: Path) -> bool:
    """Whether a run may begin here: nothing is there, or what a training left that died before it was a run."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    begun = (
        CHECKPOINTS in names and {name if name in _BEGUN else name.removesuffix(".part") for name in names} <= _BEGUN
    )
    return not names or (begun and not any((folder / CHECKPOINTS).iterdir()))


def _next_folder(name: str) -> Path:
    """Makes the folder of the next number, so that two processes never get the same."""
    number = 1
    while True:
        folder = RUNS / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def _point_latest_at(folder: Path) -> None:
    part = LATEST.with_name(f"latest.{os.getpid()}")
    try:
        RUNS.mkdir(exist_ok=True)
        part.symlink_to(os.path.relpath(folder, RUNS), target_is_directory=True)
        part.replace(LATEST)
    except OSError:  # no right to write here: the run can still be named by its path
        remove_quietly(part)
