"""Images that stay in their files until they are asked for. NumPy and Pillow only."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import cast, overload

import numpy as np
from numpy.typing import NDArray

from lcprune.data.cache import Cache, NoCache
from lcprune.data.files import Files, Paths
from lcprune.data.images import Preparation, centre, read_whole
from lcprune.errors import DataError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class FileImages:
    """Image files that read like an array ``(N, C, size, size)`` of uint8: a slice or a list of places decodes them.

    Only what is asked for is in memory.
    """

    files: Paths
    """All files of the source; a split is some of them."""
    places: NDArray[np.int64]
    """Which files these images are, ``(N,)``."""
    preparation: Preparation
    cache: Cache = field(default_factory=NoCache)
    skips: bool = False
    """Whether the next image that can be read stands in for a damaged one; else that is an error."""
    workers: int = 0
    """Processes that may read them ahead of time."""
    mirrors: bool = False
    """Whether images are turned left to right."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.places)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(N, C, size, size)``."""
        return (len(self), self.preparation.channels, self.preparation.size, self.preparation.size)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """What one pixel is."""
        return np.dtype(np.uint8)

    @overload
    def __getitem__(self, key: int | np.integer) -> Pixels: ...
    @overload
    def __getitem__(self, key: slice | NDArray[np.integer] | list[int]) -> Pixels: ...
    def __getitem__(self, key: int | np.integer | slice | NDArray[np.integer] | list[int]) -> Pixels:
        """One image ``(C, size, size)``, or several, ``(n, C, size, size)``.

        Raises:
            DataError: If a file is damaged or no longer there.
        """
        if isinstance(key, int | np.integer):
            pixels = centre(self.read(range(len(self))[int(key)])[1], self.preparation.size)
            return np.ascontiguousarray(pixels[..., ::-1]) if self.mirrors else pixels
        chosen = np.arange(len(self))[key]
        pixels = np.empty((len(chosen), *self.shape[1:]), dtype=np.uint8)
        for row, index in enumerate(chosen):
            pixels[row] = self[int(index)]
        return pixels

    def __iter__(self) -> Iterator[Pixels]:
        """One image after the other."""
        return (self[index] for index in range(len(self)))

    def as_array(self) -> Pixels:
        """The same object, for whoever reads it as an array and no more than slices of it."""
        return cast("Pixels", self)

    def subset(self, indices: NDArray[np.int64]) -> "FileImages":
        """The images at `indices`; nothing is decoded."""
        return replace(self, places=self.places[indices])

    def path(self, index: int) -> str:
        """The file of an image."""
        return self.files[int(self.places[index])]

    def read(self, index: int) -> tuple[int, Pixels]:
        """The image before its middle is cut out, ``(C, H, W)``, and its index: another one's where it stands in.

        Raises:
            DataError: If the file is damaged or no longer there, and nothing stands in for it.
        """
        for offset in range(len(self)):
            readable = (index + offset) % len(self)
            try:
                return readable, self._whole(readable)
            except DataError:
                if not self.skips:
                    raise
        raise DataError("not one of the images can be read", "look at the files, and train on others")

    def damaged(self) -> tuple[int, ...]:
        """Indices of the images that cannot be read. Every file is decoded once, and goes into the cache."""
        return tuple(index for index in range(len(self)) if not self._is_readable(index))

    def _is_readable(self, index: int) -> bool:
        try:
            self._whole(index)
        except DataError:
            return False
        return True

    def _whole(self, index: int) -> Pixels:
        place = int(self.places[index])
        path = self.files[place]
        kept = self.cache.get(place, path)
        if kept is not None:
            return kept
        pixels = read_whole(path, self.preparation)
        self.cache.put(place, path, pixels)
        return pixels


def of_files(files: Files, preparation: Preparation, cache: Cache, skips: bool, workers: int) -> FileImages:
    """All of `files`."""
    return FileImages(files.paths, np.arange(len(files), dtype=np.int64), preparation, cache, skips, workers)
