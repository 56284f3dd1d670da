"""Caches of decoded, resized images for the next epoch or the next run, of limited size.

Workers are forked from the process that makes a cache, and share it. A full cache takes no more images: in a shuffled
epoch every image is needed once, so that evicting one for another would gain nothing.
"""

import hashlib
import mmap
import multiprocessing
import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from lcprune.errors import SetupError

Pixels = NDArray[np.uint8]

_HEADER = struct.Struct("<4sIIII")  # magic number, C, H, W, CRC-32 of the pixels
_MAGIC = b"lcp1"
_FULL_SHARE = 0.9  # of the limit; above it, images of other settings are removed


class MemoryCache:
    """In memory that forked processes share. Memory is taken as it fills; a file that changes later is not noticed."""

    def __init__(self, count: int, limit_bytes: int) -> None:
        """For `count` files."""
        self._limit = max(1, limit_bytes)
        self._arena = np.frombuffer(mmap.mmap(-1, self._limit), dtype=np.uint8)
        # Of every file: offset of its pixels plus 1 (0: not cached), and C, H, W. The last row: bytes in use.
        self._table = np.frombuffer(mmap.mmap(-1, (count + 1) * 32), dtype=np.int64).reshape(count + 1, 4)
        self._lock = multiprocessing.Lock()

    @property
    def used_bytes(self) -> int:
        """Size of all images."""
        return int(self._table[-1, 0])

    def get(self, number: int, path: str) -> Pixels | None:
        """The image, ``(C, H, W)``, of file `number` of the source, which is at `path`; None if it is not cached."""
        start, *shape = (int(value) for value in self._table[number])
        if not start:
            return None
        size = shape[0] * shape[1] * shape[2]
        return self._arena[start - 1 : start - 1 + size].reshape(shape)

    def put(self, number: int, path: str, pixels: Pixels) -> None:
        """Adds an image, if it fits."""
        with self._lock:
            start = self.used_bytes
            if self._table[number, 0] or start + pixels.size > self._limit:
                return
            self._table[-1, 0] = start + pixels.size
        self._arena[start : start + pixels.size] = pixels.reshape(-1)
        self._table[number, 1:] = pixels.shape
        self._table[number, 0] = start + 1  # last, so that no process reads half an image


class DiskCache:
    """Files in a folder, which processes and runs may share; the limit is for all that is in it.

    A file is named after the path, size and modification time of the image and after the settings, so that an image
    that has changed is decoded again. It is written atomically, under a lock, and its checksum is verified.
    """

    def __init__(self, folder: Path, settings: str, limit_bytes: int) -> None:
        """Opens or makes `folder`; if it is nearly full, images of other `settings` are removed, oldest first.

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

    def get(self, number: int, path: str) -> Pixels | None:
        """As `MemoryCache.get`; the path counts, not the number."""
        try:
            content = self._file(path).read_bytes()
        except OSError:
            return None
        if len(content) < _HEADER.size:
            return None
        magic, channels, height, width, checksum = _HEADER.unpack_from(content)
        body = memoryview(content)[_HEADER.size :]
        if magic != _MAGIC or len(body) != channels * height * width or zlib.crc32(body) != checksum:
            return None
        return np.frombuffer(body, dtype=np.uint8).reshape(channels, height, width)

    def put(self, number: int, path: str, pixels: Pixels) -> None:
        """Adds an image, if it fits."""
        if self._full:
            return
        body = np.ascontiguousarray(pixels).tobytes()
        content = _HEADER.pack(_MAGIC, *pixels.shape, zlib.crc32(body)) + body
        try:
            self._write(self._file(path), content)
        except OSError:  # the disk is full, or the image is gone
            self._full = True

    def _write(self, target: Path, content: bytes) -> None:
        with self._locked():
            text = self._usage.read_text()
            used = int(text) if text.isdigit() else 0
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
        return FileLock(self._folder / "lock")  # a new one: a forked process may not use that of its parent

    def _make_room(self) -> None:
        groups = [entry for entry in self._folder.iterdir() if entry.is_dir()]
        used = {group: _used_bytes(group) for group in groups}
        for oldest in sorted(groups, key=lambda group: group.stat().st_mtime):
            if oldest != self._group and sum(used.values()) > self._limit * _FULL_SHARE:
                shutil.rmtree(oldest, ignore_errors=True)  # a run that still reads it decodes again
                used[oldest] = _used_bytes(oldest)
        self._usage.write_text(str(sum(used.values())))


Cache = MemoryCache | DiskCache


def cache_folder() -> Path:
    """Folder of the disk cache: ``$LCPRUNE_CACHE``, else a folder of the user's cache."""
    if named := os.environ.get("LCPRUNE_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lcprune" / "images"


def _used_bytes(folder: Path) -> int:
    return sum(os.stat(os.path.join(parent, name)).st_size for parent, _, names in os.walk(folder) for name in names)
