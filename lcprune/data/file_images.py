"""Images that stay in their files until they are read. NumPy and Pillow only."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lcprune.data.cache import Cache
from lcprune.errors import DataError
from lcprune_runtime.files import Files
from lcprune_runtime.images import Preparation, center_crop, read_resized

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class FileImages:
    """Image files that are indexed like an array ``(N, C, size, size)`` of uint8; only what is read is in memory."""

    files: Files
    """All files of the source; a split is some of them."""
    indices: NDArray[np.int64]
    """Which of the files these images are, ``(N,)``."""
    preparation: Preparation
    cache: Cache | None = None
    skips: bool = False
    """Whether a damaged image is replaced by the next one that can be read; else it is an error."""
    workers: int = 0
    """Processes that may read them ahead of time."""
    mirrors: bool = False
    """Whether images are flipped horizontally."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(N, C, size, size)``."""
        return (len(self), self.preparation.channels, self.preparation.size, self.preparation.size)

    def __getitem__(self, key: int | np.integer | slice | NDArray[np.integer] | list[int]) -> Pixels:
        """One image ``(C, size, size)``, or several, ``(n, C, size, size)``.

        Raises:
            DataError: If a file is damaged or no longer there.
        """
        if isinstance(key, int | np.integer):
            pixels = center_crop(self.read(range(len(self))[int(key)])[1], self.preparation.size)
            return np.ascontiguousarray(pixels[..., ::-1]) if self.mirrors else pixels
        chosen = np.arange(len(self))[key]
        several = np.empty((len(chosen), *self.shape[1:]), dtype=np.uint8)
        for row, index in enumerate(chosen):
            several[row] = self[index]
        return several

    def as_array(self) -> Pixels:
        """The same object, typed as an array for code that only reads slices of it."""
        return cast("Pixels", self)

    def subset(self, indices: NDArray[np.int64]) -> "FileImages":
        """The images at `indices`; nothing is decoded."""
        return replace(self, indices=self.indices[indices])

    def path(self, index: int) -> str:
        """The file of an image."""
        return self.files.path(int(self.indices[index]))

    def read(self, index: int) -> tuple[int, Pixels]:
        """The image before its center crop, ``(C, H, W)``, and its index: that of the replacement if it is damaged.

        Raises:
            DataError: If the file is damaged or no longer there, and is not replaced.
        """
        for offset in range(len(self)):
            readable = (index + offset) % len(self)
            try:
                return readable, self._resized(readable)
            except DataError:
                if not self.skips:
                    raise
        raise DataError("not one of the images can be read", "look at the files, and train on others")

    def readable(self) -> Iterator[tuple[int, Pixels]]:
        """Index and pixels, ``(C, size, size)``, of every image that can be read.

        Raises:
            DataError: If a file is damaged or no longer there, and may not be skipped.
        """
        strict = replace(self, skips=False)
        for index in range(len(self)):
            try:
                pixels = strict[index]
            except DataError:
                if not self.skips:
                    raise
            else:
                yield index, pixels

    def _resized(self, index: int) -> Pixels:
        number, path = int(self.indices[index]), self.path(index)
        if self.cache is None:
            return read_resized(path, self.preparation)
        pixels = self.cache.get(number, path)
        if pixels is None:
            pixels = read_resized(path, self.preparation)
            self.cache.put(number, path, pixels)
        return pixels
