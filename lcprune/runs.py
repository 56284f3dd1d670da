"""The run folder: its layout, atomic writes, checksums, the lock, and the newest run."""

import errno
import hashlib
import json
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lcprune import recipe as recipes
from lcprune.errors import RunError
from lcprune.recipe import Recipe

RUNS = Path("runs")
LATEST = RUNS / "latest"

RECIPE = "recipe.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
WEIGHTS = "weights.safetensors"
CHECKPOINTS = "checkpoints"
PREDICTIONS = "predictions.npz"
SAMPLE_LOSSES = "sample_losses.npz"
BAD_IMAGES = "bad_images.json"
DATASET = "dataset.json"
PROFILE = "profile.json"
SELECTION = "selection.json"
THRESHOLDS = "thresholds.json"
REPORT = "report.html"
EXPORT = "export"
MANIFEST = "manifest.json"
MADE_FROM = "made_from"
"""Key of the manifest: of each result, the SHA-256 of the files that it was made from."""

_BEGUN = {CHECKPOINTS, ENVIRONMENT, DATASET, MANIFEST, RECIPE + ".part"}
"""All that a run folder may hold before its recipe is in it, which makes it a run."""
_NO_FOLDER_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EISDIR}
"""What systems say that cannot flush a folder; they have no other way to make a new name last."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the name of `path` once it is whole and on the disk.

    Raises:
        RunError: If the folder cannot be written to or the disk is full. `path` is as it was.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        _flush(part)
        part.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        _remove(part)
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}", "free the disk or choose another folder"
        ) from None
    except BaseException:
        _remove(part)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        RunError: If it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error})", "delete it and run the command that writes it again") from None


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
        handle = _flock(folder, wait=False)
    except BlockingIOError:
        raise RunError(
            f"another process is training in {folder}",
            "wait until it has ended, or stop it; to train beside it, give --out another folder",
        ) from None
    try:
        yield
    finally:
        _release(handle)


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


def require(folder: Path, name: str, command: str) -> Path:
    """The path of a file of the run, checked against its recorded SHA-256 and against what it was made from.

    Args:
        folder: Of the run.
        name: Of the file.
        command: What to type where the file is missing or has changed: it writes the file.

    Raises:
        RunError: If it is missing, has changed since it was written, or was made from what is there no longer.
    """
    path = folder / name
    if not path.is_file():
        raise RunError(f"{folder} has no {name}", f"run this first: {command}")
    recorded = _manifest(folder).files.get(name)
    if recorded is not None and recorded != sha256(path):
        raise RunError(f"{path} is not what was written: its SHA-256 has changed", f"restore it, or run: {command}")
    if sources := changed_sources(folder, name):
        raise RunError(
            f"{path} does not belong to the {' and '.join(sources)} that is there now: it was made from another",
            f"make it again: {command}",
        )
    return path


def record(folder: Path, *names: str, made_from: Iterable[str] = ()) -> None:
    """Adds the SHA-256 of files of the run to its manifest.

    Args:
        folder: Of the run.
        names: Of the files.
        made_from: Names of other files of the run that decided what is in them; those that are not there are left out.
    """
    digests = {name: sha256(folder / name) for name in names}
    sources = {source: sha256(folder / source) for source in made_from if (folder / source).is_file()}

    def add(manifest: _Manifest) -> _Manifest:
        others = {name: of_name for name, of_name in manifest.made_from.items() if name not in digests}
        return _Manifest(manifest.files | digests, others | ({name: sources for name in names} if sources else {}))

    _change_manifest(folder, add)


def remove(folder: Path, *names: str) -> None:
    """Removes files of the run, where they are there, and what is recorded of them."""
    for name in names:
        (folder / name).unlink(missing_ok=True)

    def drop(manifest: _Manifest) -> _Manifest:
        files = {name: digest for name, digest in manifest.files.items() if name not in names}
        return _Manifest(files, {name: of for name, of in manifest.made_from.items() if name not in names})

    _change_manifest(folder, drop)


def recorded_files(folder: Path) -> list[str]:
    """Names of the files in the manifest."""
    return list(_manifest(folder).files)


def changed_files(folder: Path) -> list[str]:
    """Names of the recorded files that are missing or no longer have their recorded SHA-256."""
    files = _manifest(folder).files
    return [n for n, digest in files.items() if not (folder / n).is_file() or sha256(folder / n) != digest]


def changed_sources(folder: Path, name: str) -> list[str]:
    """Names of the files that `name` was made from and that are others now; those that are gone cannot be told."""
    sources = _manifest(folder).made_from.get(name, {})
    return [s for s, digest in sources.items() if (folder / s).is_file() and sha256(folder / s) != digest]


def check_exported(path: Path) -> None:
    """Holds a file against what the run that it lies in has recorded of it; of any other file nothing is known.

    Raises:
        RunError: If it has changed since it was written.
    """
    found = run_of(path)
    if found is None:
        return
    folder, name = found
    recorded = _manifest(folder).files.get(name)
    if recorded is not None and path.is_file() and recorded != sha256(path):
        raise RunError(
            f"{path} is not what was written: its SHA-256 has changed", f"export it again: lcprune export {folder}"
        )


def run_of(path: Path) -> tuple[Path, str] | None:
    """The run folder in which a file lies, and its name there; None where it lies in none."""
    path = path.resolve()
    for folder in path.parents:
        if all((folder / name).is_file() for name in (MANIFEST, RECIPE)):  # segments have a manifest, too
            return folder, path.relative_to(folder).as_posix()
    return None


def write_predictions(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes ``predictions.npz`` and records it.

    Not compressed: that would save 7 % of the bytes at 40 times the time.
    """
    with atomic_write(folder / PREDICTIONS) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    record(folder, PREDICTIONS, made_from=[WEIGHTS])


def read_predictions(folder: Path, splits: Collection[str] = ("val", "test")) -> dict[str, np.ndarray]:
    """``val_logits``, ``val_labels``, ``test_logits``, ``test_labels``; logits are ``(K, N, C)``.

    Args:
        folder: Of the run.
        splits: Whose logits to read; those of others would take time and memory. Labels are always there.

    Raises:
        RunError: If the run has none yet, or they are damaged.
    """
    command = f"lcprune resume {folder}"
    path = require(folder, PREDICTIONS, command)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            wanted = {f"{split}_logits" for split in splits}
            return {name: arrays[name] for name in arrays if name in wanted or not name.endswith("_logits")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"{path} is damaged ({error})", f"run this, which writes it again: {command}") from None


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _Manifest:
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 by name."""
    made_from: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of a file by name, the SHA-256 of its sources by name."""


def _manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    content = read_json(path) if path.exists() else {}
    sources: Any = content.pop(MADE_FROM, {}) if isinstance(content, dict) else []
    if not isinstance(sources, dict) or not all(isinstance(of_file, dict) for of_file in sources.values()):
        raise RunError(f"{path} is damaged", "restore it, or train again")
    return _Manifest(content, sources)


def _change_manifest(folder: Path, change: Callable[[_Manifest], _Manifest]) -> None:
    """Reads, changes and writes the manifest; two commands at a time would otherwise lose what one of them adds."""
    handle = _flock(folder / CHECKPOINTS, wait=True)
    try:
        manifest = change(_manifest(folder))
        sources = {MADE_FROM: dict(sorted(manifest.made_from.items()))} if manifest.made_from else {}
        write_json(folder / MANIFEST, dict(sorted(manifest.files.items())) | sources)
    finally:
        _release(handle)


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
        _remove(part)


def _remove(part: Path) -> None:
    with suppress(OSError):  # the error that led here says more than that this could not be removed either
        part.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Makes the names in a folder last, where the system can.

    Raises:
        OSError: If they cannot be written.
    """
    try:
        _flush(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_LOCKS: set[int] = set()
"""Handles of locks that this process has."""


def _flock(folder: Path, *, wait: bool) -> int | None:
    """Locks a folder; None where that cannot be done.

    Raises:
        BlockingIOError: If another has it and this shall not wait.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None  # a file system without locks
    _LOCKS.add(handle)
    return handle


def _release(handle: int | None) -> None:
    if handle in _LOCKS:
        _LOCKS.remove(handle)
        os.close(handle)


def _leave_locks_to_the_parent() -> None:
    """In a forked process: one that outlives the training must not hold its lock."""
    while _LOCKS:
        os.close(_LOCKS.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)
