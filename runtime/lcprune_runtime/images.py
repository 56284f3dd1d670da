"""Image files to arrays. NumPy and Pillow only: programs that run an exported model read images here without torch."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lcprune_runtime.decoding import decode
from lcprune_runtime.errors import DataError
from lcprune_runtime.files import list_classes, scan
from lcprune_runtime.progress import Items, tracked

Interpolation = Literal["bilinear", "bicubic"]

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_MODES: dict[int, Literal["L", "RGB"]] = {1: "L", 3: "RGB"}
_LONGEST = 8  # times the shorter side: of a longer image only the center is kept, a strip of pixels would fill memory


@dataclass(frozen=True)
class Preparation:
    """How an image file becomes a network's input, ``(C, size, size)``: the same in training and afterwards.

    Without `shorter_side` the image is resized to a square. With it, the image is scaled until its shorter side has
    that many pixels (the other one rounded down), and the center is cropped (an odd rest is cut off on the right and
    below). Resizing uses Pillow's antialiasing filters.
    """

    size: int
    """Height and width in pixels."""
    channels: Literal[1, 3]
    """1 for grey, 3 for RGB."""
    shorter_side: int | None = None
    """In pixels, at least `size`; None: resized to a square."""
    interpolation: Interpolation = "bilinear"


def list_images(folder: Path) -> list[Path]:
    """Every image file in a folder and the folders below it, sorted; see `scan`.

    Raises:
        DataError: If there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}", "name a folder that holds images")
    return [Path(path) for path in scan(folder)]


def read_image(path: Path | BinaryIO, size: int | None, channels: Literal[1, 3]) -> NDArray[np.uint8]:
    """One image as ``(C, H, W)``, 0 to 255, rotated upright according to its EXIF data.

    Palettes and CMYK become RGB; transparent pixels are composited over black; of 16 bits the upper 8 are kept, and
    refused if all are black; of an animation the first frame. RGB becomes grey by the weights of ITU-R 601 (Pillow's
    mode ``L``).

    Args:
        path: File, or open stream, in a format of `lcprune_runtime.decoding.FORMATS`, HEIC or AVIF.
        size: Height and width to resize to, in pixels (bilinear, antialiased, the aspect ratio is not kept);
            without it the image keeps its own.
        channels: 1 for grey, 3 for RGB.

    Raises:
        DataError: If the file is missing, no image, damaged, cut short, far too large to be decoded safely, or has
            pixels of an unknown range (floats, 32 bits).
    """
    image = decode(path, _MODES[channels])
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return _pixels(image, channels)


def read_prepared(path: str | Path | BinaryIO, preparation: Preparation) -> NDArray[np.uint8]:
    """One image as a network's input, ``(C, size, size)``, 0 to 255; files are read as by `read_image`.

    Raises:
        DataError: As `read_image`.
    """
    return center_crop(read_resized(path, preparation), preparation.size)


def read_resized(path: str | Path | BinaryIO, preparation: Preparation) -> NDArray[np.uint8]:
    """As `read_prepared`, but before the center crop, ``(C, H, W)``: random crops are taken from it.

    Raises:
        DataError: As `read_image`.
    """
    image = decode(path, _MODES[preparation.channels])
    resampling = _RESAMPLING[preparation.interpolation]
    if preparation.shorter_side is None:
        image = image.resize((preparation.size, preparation.size), resampling)
    else:
        image = _scaled(image, preparation.shorter_side, resampling)
    return _pixels(image, preparation.channels)


def center_crop(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The center of an image, ``(C, H, W)`` to ``(C, size, size)``."""
    top, left = ((side - size) // 2 for side in pixels.shape[1:])
    return np.ascontiguousarray(pixels[:, top : top + size, left : left + size])


BadImages = list[dict[str, str]]
"""Of every file that could not be read, ``image``, its path, and ``problem``."""


def readable(
    paths: Items[str | Path], preparation: Preparation, bad: BadImages
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Index and pixels ``(C, size, size)`` of every image that can be read; the others are added to `bad`.

    Raises:
        DataError: In the end, if not one of several could be read.
    """
    first, is_any = None, False
    for index, path in enumerate(tracked(paths, "reading images")):
        try:
            pixels = read_prepared(path, preparation)
        except DataError as error:
            first = first or error
            bad.append({"image": str(path), "problem": error.problem})
        else:
            is_any = True
            yield index, pixels
    if first is not None and not is_any:
        raise first


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images of a folder with one subfolder per class."""

    images: NDArray[np.uint8]
    """``(N, C, size, size)``."""
    labels: NDArray[np.int64]
    """``(N,)``."""
    classes: tuple[str, ...]
    bad: BadImages
    """Those that could not be read and are left out."""


def read_folder(folder: Path, preparation: Preparation, classes: Sequence[str] | None = None) -> LabelledImages:
    """All images of a folder with one subfolder per class that can be read.

    `classes` is as in `list_classes`, the rest as in `read_prepared`.

    Raises:
        DataError: As `list_classes`, `refuse_too_many` and `readable`.
    """
    files, known = list_classes(folder, classes)
    refuse_too_many(len(files), preparation.size, preparation.channels)
    images = np.empty((len(files), preparation.channels, preparation.size, preparation.size), dtype=np.uint8)
    kept: list[int] = []
    bad: BadImages = []
    for index, pixels in readable(files, preparation, bad):
        images[len(kept)] = pixels
        kept.append(index)
    return LabelledImages(images[: len(kept)], files.labels[kept], known, bad)


def refuse_too_many(count: int, size: int, channels: int) -> None:
    """Checks, before anything is decoded, that `count` images fit into memory.

    Raises:
        DataError: If they would take more than half of it.
    """
    if not fits_into_memory(count, size, channels, share=0.5):
        needed_bytes, memory_bytes = count * channels * size * size, _physical_memory_bytes() or 0
        needed, memory = (f"{value / 2**30:.1f} GiB" for value in (needed_bytes, memory_bytes))
        raise DataError(
            f"{count:,} images of {channels} x {size} x {size} take {needed}, more than half of the {memory} of memory",
            "set a smaller data.image_size, or use fewer images",
        )


def fits_into_memory(count: int, size: int, channels: int, share: float) -> bool:
    """Whether `count` images take at most this share of the machine's memory; True where its size is not known."""
    memory_bytes = _physical_memory_bytes()
    return memory_bytes is None or count * channels * size * size <= memory_bytes * share


def _scaled(image: Image.Image, shorter_side: int, resampling: Image.Resampling) -> Image.Image:
    shorter, longer = sorted(image.size)
    longer = min(longer, shorter * _LONGEST)
    wide = image.width > image.height
    kept_width, kept_height = (longer, shorter) if wide else (shorter, longer)
    left, top = (image.width - kept_width) // 2, (image.height - kept_height) // 2
    scaled = longer * shorter_side // shorter
    size = (scaled, shorter_side) if wide else (shorter_side, scaled)
    return image.resize(size, resampling, box=(left, top, left + kept_width, top + kept_height))


def _pixels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    pixels = np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _physical_memory_bytes() -> int | None:
    """Memory of the machine; None where the system does not tell (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
