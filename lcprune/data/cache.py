"""Decoded, resized images that are kept for the next epoch or the next run, within a bound.

Workers are forked from the process that makes a cache, and share it. When a cache is full, nothing more goes into it:
in a shuffled epoch every image is needed once, so that throwing one out for another would win nothing.
"""

import contextlib
import hashlib
import json
import mmap
import multiprocessing
import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from lcprune.errors import SetupError

Pixels = NDArray[np.uint8]

_HEADER = struct.Struct("<4sIIII")  # mark, C, H, W, CRC-32 of the pixels
_MARK = b"lcp1"
_FULL_SHARE = 0.9  # of the bound; above it, images of other settings make room


class Cache(Protocol):
    """Where decoded images are kept."""

    def get(self, place: int, path: str) -> Pixels | None:
        """The image, ``(C, H, W)``, of the file at `path`, which is number `place` of its source; None: not here."""
        ...

    def put(self, place: int, path: str, pixels: Pixels) -> None:
        """Keeps an image where there is room for it."""
        ...


class NoCache:
    """Keeps nothing."""

    def get(self, place: int, path: str) -> Pixels | None:
        """See `Cache`."""
        return None

    def put(self, place: int, path: str, pixels: Pixels) -> None:
        """See `Cache`."""


class MemoryCache:
    """In memory that forked processes share. Memory is taken as it fills; a file that changes later is not noticed."""

    def __init__(self, count: int, limit_bytes: int) -> None:
        """For `count` files."""
        self._limit = max(1, limit_bytes)
        self._arena = np.frombuffer(mmap.mmap(-1, self._limit), dtype=np.uint8)
        # Of every file: where its pixels begin, plus 1 (0: not here), and C, H, W. The last row: bytes in use.
        self._table = np.frombuffer(mmap.mmap(-1, (count + 1) * 32), dtype=np.int64).reshape(count + 1, 4)
        self._lock = multiprocessing.Lock()

    @property
    def used_bytes(self) -> int:
        """Taken by images."""
        return int(self._table[-1, 0])

    def get(self, place: int, path: str) -> Pixels | None:
        """See `Cache`."""
        start, *shape = (int(value) for value in self._table[place])
        if not start:
            return None
        size = shape[0] * shape[1] * shape[2]
        return self._arena[start - 1 : start - 1 + size].reshape(shape)

    def put(self, place: int, path: str, pixels: Pixels) -> None:
        """See `Cache`."""
        with self._lock:
            start = self.used_bytes
            if self._table[place, 0] or start + pixels.size > self._limit:
                return
            self._table[-1, 0] = start + pixels.size
        self._arena[start : start + pixels.size] = pixels.reshape(-1)
        self._table[place, 1:] = pixels.shape
        self._table[place, 0] = start + 1  # last, so that nobody reads half an image


class DiskCache:
    """Files in a folder, which processes and runs may share; the bound holds for all that is in it.

    A file is named after the path, size and time of change of the image and after the settings, so that what has
    changed is decoded anew. It is written whole, under a lock, and its checksum is looked at when it is read.
    """

    def __init__(self, folder: Path, settings: str, limit_bytes: int) -> None:
        """Opens or makes `folder`; images of other `settings` are removed, oldest first, where it is nearly full.

        Raises:
            SetupError: If the folder cannot be written to, or its file system has no locks.
        """
        self._folder = folder
        self._group = folder / hashlib.sha256(settings.encode()).hexdigest()[:16]
        self._limit = limit_bytes
        self._full = False
        self._usage = folder / "used_bytes"
        try:
            self._group.mkdir(parents=True, exist_ok=True)
            os.utime(self._group)
            with self._locked():
                self._make_room()
        except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
            raise SetupError(
                f"the image cache {folder} cannot be written to: {getattr(error, 'strerror', None) or error}",
                "set LCPRUNE_CACHE to another folder, or data.cache: memory",
            ) from None

    def get(self, place: int, path: str) -> Pixels | None:
        """See `Cache`."""
        try:
            content = self._file(path).read_bytes()
        except OSError:
            return None
        if len(content) < _HEADER.size:
            return None
        mark, channels, height, width, checksum = _HEADER.unpack_from(content)
        body = memoryview(content)[_HEADER.size :]
        if mark != _MARK or len(body) != channels * height * width or zlib.crc32(body) != checksum:
            return None
        return np.frombuffer(body, dtype=np.uint8).reshape(channels, height, width)

    def put(self, place: int, path: str, pixels: Pixels) -> None:
        """See `Cache`."""
        if self._full:
            return
        body = np.ascontiguousarray(pixels).tobytes()
        content = _HEADER.pack(_MARK, *pixels.shape, zlib.crc32(body)) + body
        try:
            self._write(self._file(path), content)
        except OSError:  # the disk is full, or the image is gone
            self._full = True

    def _write(self, target: Path, content: bytes) -> None:
        with self._locked():
            used = _read_number(self._usage)
            self._full = used + len(content) > self._limit
            if self._full or target.exists():
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as part:
                part.write(content)
            os.replace(part.name, target)
            self._usage.write_text(str(used + len(content)))

    def _file(self, path: str) -> Path:
        found = os.stat(path)
        key = f"{os.path.abspath(path)}\0{found.st_mtime_ns}\0{found.st_size}"
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return self._group / name[:2] / name

    def _locked(self) -> FileLock:
        return FileLock(self._folder / "lock")  # made anew: a forked process may not use that of its parent

    def _make_room(self) -> None:
        groups = [entry for entry in self._folder.iterdir() if entry.is_dir()]
        used = {group: _used_bytes(group) for group in groups}
        others = sorted((group for group in groups if group != self._group), key=lambda group: group.stat().st_mtime)
        while others and sum(used.values()) > self._limit * _FULL_SHARE:
            oldest = others.pop(0)
            shutil.rmtree(oldest, ignore_errors=True)  # a run that still reads it decodes again
            used[oldest] = _used_bytes(oldest) if oldest.exists() else 0
        self._usage.write_text(str(sum(used.values())))


def cache_folder() -> Path:
    """Where images are kept on the disk: ``$LCPRUNE_CACHE``, else a folder of the user's cache."""
    if named := os.environ.get("LCPRUNE_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lcprune" / "images"


def settings_text(**settings: object) -> str:
    """Settings as a text that is the same for the same settings."""
    return json.dumps(settings, sort_keys=True, default=str)


def _used_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def _read_number(path: Path) -> int:
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text.isdigit() else 0
