"""What each file of a run was when it was written, and what it was made from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcprune.errors import RunError
from lcprune.runs import locks
from lcprune.runs.files import read_json, sha256, write_json
from lcprune.runs.layout import CHECKPOINTS, MADE_FROM, MANIFEST, RECIPE


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
    recorded = _read(folder).files.get(name)
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
    return list(_read(folder).files)


def changed_files(folder: Path) -> list[str]:
    """Names of the recorded files that are missing or no longer have their recorded SHA-256."""
    files = _read(folder).files
    return [n for n, digest in files.items() if not (folder / n).is_file() or sha256(folder / n) != digest]


def changed_sources(folder: Path, name: str) -> list[str]:
    """Names of the files that `name` was made from and that are others now; those that are gone cannot be told."""
    sources = _read(folder).made_from.get(name, {})
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
    recorded = _read(folder).files.get(name)
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


@dataclass(frozen=True)
class _Manifest:
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 by name."""
    made_from: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of a file by name, the SHA-256 of its sources by name."""


def _read(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    content = read_json(path) if path.exists() else {}
    sources: Any = content.pop(MADE_FROM, {}) if isinstance(content, dict) else []
    if not isinstance(sources, dict) or not all(isinstance(of_file, dict) for of_file in sources.values()):
        raise RunError(f"{path} is damaged", "restore it, or train again")
    return _Manifest(content, sources)


def _change_manifest(folder: Path, change: Callable[[_Manifest], _Manifest]) -> None:
    """Reads, changes and writes the manifest; two commands at a time would otherwise lose what one of them adds."""
    handle = locks.take(folder / CHECKPOINTS, wait=True)
    try:
        manifest = change(_read(folder))
        sources = {MADE_FROM: dict(sorted(manifest.made_from.items()))} if manifest.made_from else {}
        write_json(folder / MANIFEST, dict(sorted(manifest.files.items())) | sources)
    finally:
        locks.release(handle)
