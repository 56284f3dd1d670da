"""Atomic writes, JSON and checksums of files."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lcprune.errors import RunError, fix_of

_NO_FOLDER_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EISDIR}
"""Errors of systems that cannot flush a folder; they have no other way to make a new name durable."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; afterwards it is flushed to the disk and renamed to `path`.

    Raises:
        RunError: If the folder cannot be written to or the disk is full. `path` is left unchanged.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        _flush(part)
        part.replace(path)
        flush_folder(path.parent)
    except BaseException as error:
        remove_quietly(part)
        if isinstance(error, OSError):
            raise RunError(f"{path} cannot be written: {error.strerror or error}", fix_of(error, path)) from None
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file, atomically."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        RunError: If it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error})", "delete it and run the command that writes it again") from None


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_folder(folder: Path) -> None:
    """Flushes the names in a folder to the disk, where the system can.

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


def remove_quietly(part: Path) -> None:
    """Removes a file, if it is there and can be removed."""
    with suppress(OSError):  # the error that led here says more than that this could not be removed either
        part.unlink(missing_ok=True)
