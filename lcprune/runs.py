"""The run folder: its layout, atomic writes, checksums, and the newest run."""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
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
DATASET = "dataset.json"
PROFILE = "profile.json"
SELECTION = "selection.json"
THRESHOLDS = "thresholds.json"
EXPORT = "export"
MANIFEST = "manifest.json"


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
        _flush(path.parent)
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


def create(recipe: Recipe, out: Path | None) -> Path:
    """A new run folder, ``runs/<name>-<n>`` or `out`, with the resolved recipe in it; ``runs/latest`` names it.

    Raises:
        RunError: If `out` holds something, or the folder cannot be made.
    """
    folder = out or _next_folder(recipe.name)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder} is there already and holds something", "give --out a new folder, or leave it out")
        (folder / CHECKPOINTS).mkdir(parents=True)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be made: {error.strerror}", "give --out a folder that you may write to"
        ) from None
    write_text(folder / RECIPE, recipes.dump(recipe))
    _point_latest_at(folder)
    return folder


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
    """The path of a file of the run, checked against its recorded SHA-256.

    Args:
        folder: Of the run.
        name: Of the file.
        command: What to type where the file is missing or has changed: it writes the file.

    Raises:
        RunError: If it is missing or has changed since it was written.
    """
    path = folder / name
    if not path.is_file():
        raise RunError(f"{folder} has no {name}", f"run this first: {command}")
    recorded = _manifest(folder).get(name)
    if recorded is not None and recorded != sha256(path):
        raise RunError(f"{path} is not what was written: its SHA-256 has changed", f"restore it, or run: {command}")
    return path


def record(folder: Path, *names: str) -> None:
    """Adds the SHA-256 of files of the run to its manifest."""
    manifest = _manifest(folder) | {name: sha256(folder / name) for name in names}
    write_json(folder / MANIFEST, dict(sorted(manifest.items())))


def remove(folder: Path, *names: str) -> None:
    """Removes files of the run, where they are there, and what is recorded of them."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    write_json(folder / MANIFEST, {name: digest for name, digest in _manifest(folder).items() if name not in names})


def recorded_files(folder: Path) -> list[str]:
    """Names of the files in the manifest."""
    return list(_manifest(folder))


def changed_files(folder: Path) -> list[str]:
    """Names of the recorded files that are missing or no longer have their recorded SHA-256."""
    return [n for n, digest in _manifest(folder).items() if not (folder / n).is_file() or sha256(folder / n) != digest]


def write_predictions(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes ``predictions.npz`` and records it.

    Not compressed: that would save 7 % of the bytes at 40 times the time.
    """
    with atomic_write(folder / PREDICTIONS) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    record(folder, PREDICTIONS)


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


def _manifest(folder: Path) -> dict[str, str]:
    path = folder / MANIFEST
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged", "restore it, or train again")
    return content


def _next_folder(name: str) -> Path:
    number = 1
    while (RUNS / f"{name}-{number}").exists():
        number += 1
    return RUNS / f"{name}-{number}"


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


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
