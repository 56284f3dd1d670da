"""``manifest.json``: the SHA-256 of every file of a run when it was written, and of the files that it was made from."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lcprune.errors import RunError
from lcprune.runs.files import read_json, sha256, write_json
from lcprune.runs.layout import CHECKPOINTS, MADE_FROM, MANIFEST, RECIPE
from lcprune.runs.locks import locked

Manifest = tuple[dict[str, str], dict[str, dict[str, str]]]
"""SHA-256 of every recorded file; for every result, the SHA-256 of the files that it was made from."""


def require(folder: Path, name: str, command: str) -> Path:
    """The path of a file of the run, verified against its recorded SHA-256 and against the files it was made from.

    Args:
        folder: Of the run.
        name: Of the file.
        command: What to type where the file is missing or has changed: it writes the file.

    Raises:
        RunError: If it is missing, has changed since it was written, or was made from a file that has changed.
    """
    path = folder / name
    if not path.is_file():
        raise RunError(f"{folder} has no {name}", f"run this first: {command}")
    _verify(path, folder, name, f"restore it, or run: {command}")
    if sources := changed_sources(folder, name):
        raise RunError(
            f"{path} does not belong to the {' and '.join(sources)} that is there now: it was made from another",
            f"make it again: {command}",
        )
    return path


def check_exported(path: Path) -> None:
    """Verifies a file that lies in a run folder against its recorded SHA-256; any other file passes.

    Raises:
        RunError: If it has changed since it was written.
    """
    if path.is_file() and (found := run_of(path)):
        folder, name = found
        _verify(path, folder, name, f"export it again: lcprune export {folder}")


def record(folder: Path, *names: str, made_from: Iterable[str] = ()) -> None:
    """Adds the SHA-256 of files of the run to its manifest.

    Args:
        folder: Of the run.
        names: Of the files.
        made_from: Names of other files of the run that decided what is in them; missing ones are left out.
    """
    checksums = {name: sha256(folder / name) for name in names}
    sources = {source: sha256(folder / source) for source in made_from if (folder / source).is_file()}
    with _changing(folder) as (files, of_sources):
        files |= checksums
        for name in names:
            of_sources.pop(name, None)
            if sources:
                of_sources[name] = sources


def remove(folder: Path, *names: str) -> None:
    """Removes files of the run, if they exist, and their records."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    with _changing(folder) as manifest:
        for records in manifest:
            for name in names:
                records.pop(name, None)


def recorded_files(folder: Path) -> list[str]:
    """Names of the files in the manifest."""
    return list(_read(folder)[0])


def changed_files(folder: Path) -> list[str]:
    """Names of the recorded files that are missing or no longer have their recorded SHA-256."""
    files, _ = _read(folder)
    return [n for n, checksum in files.items() if not (folder / n).is_file() or sha256(folder / n) != checksum]


def changed_sources(folder: Path, name: str) -> list[str]:
    """Names of the files that `name` was made from and that have changed since; a missing one does not count."""
    sources = _read(folder)[1].get(name, {})
    return [s for s, checksum in sources.items() if (folder / s).is_file() and sha256(folder / s) != checksum]


def run_of(path: Path) -> tuple[Path, str] | None:
    """The run folder in which a file lies, and its name there; None for a file outside of runs."""
    path = path.resolve()
    for folder in path.parents:
        if all((folder / name).is_file() for name in (MANIFEST, RECIPE)):  # segments have a manifest, too
            return folder, path.relative_to(folder).as_posix()
    return None


def _verify(path: Path, folder: Path, name: str, fix: str) -> None:
    recorded = _read(folder)[0].get(name)
    if recorded is not None and recorded != sha256(path):
        raise RunError(f"{path} is not what was written: its SHA-256 has changed", fix)


def _read(folder: Path) -> Manifest:
    path = folder / MANIFEST
    content = read_json(path) if path.exists() else {}
    sources: Any = content.pop(MADE_FROM, {}) if isinstance(content, dict) else []
    if not isinstance(sources, dict) or not all(isinstance(of_file, dict) for of_file in sources.values()):
        raise RunError(f"{path} is damaged", "restore it, or train again")
    return content, sources


@contextmanager
def _changing(folder: Path) -> Iterator[Manifest]:
    """The manifest to be changed, which is written afterwards; under a lock, as commands may run at the same time."""
    with locked(folder / CHECKPOINTS, wait=True):
        files, sources = _read(folder)
        yield files, sources
        made_from = {MADE_FROM: dict(sorted(sources.items()))} if sources else {}
        write_json(folder / MANIFEST, dict(sorted(files.items())) | made_from)
