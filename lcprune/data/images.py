"""Image files to arrays. NumPy and Pillow only: what runs an exported model reads its images here, without torch."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lcprune.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"})

_WITH_ALPHA = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})


def list_images(folder: Path) -> list[Path]:
    """Every image file in a folder and the folders below it, sorted; told by the suffix, in any case.

    Hidden files are passed over: what lies beside images as ``._name.jpg`` is no image.

    Raises:
        DataError: If there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}", "name a folder that holds images")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def read_image(path: Path | BinaryIO, size: int | None, channels: Literal[1, 3]) -> NDArray[np.uint8]:
    """One image as ``(C, H, W)``, 0 to 255, turned upright as its EXIF data says.

    Palettes and CMYK become RGB; what is transparent is laid over black; of 16 bits the upper 8 are kept; of an
    animation the first frame. RGB becomes grey by the weights of ITU-R 601 (Pillow's mode ``L``).

    Args:
        path: File, or open stream, in any format that Pillow reads.
        size: Height and width to resize to, in pixels (bilinear, antialiased, the aspect ratio is not kept);
            without it the image keeps its own.
        channels: 1 for grey, 3 for RGB.

    Raises:
        DataError: If the file is missing, no image, damaged, cut short, or far too large to be decoded safely.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                image = _to_mode(ImageOps.exif_transpose(opened), "L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise DataError(f"there is no image {path}", "check the path") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels"
        raise DataError(f"{path} has more than {limit}", "make the image smaller, or leave it out") from None
    except Exception as error:  # Pillow's decoders raise nearly everything on a damaged file
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as an image: {reason}", "replace the file, or remove it") from None
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_images(paths: Sequence[Path], size: int, channels: Literal[1, 3]) -> NDArray[np.uint8]:
    """Many images, each resized, as one array ``(N, C, size, size)``.

    Raises:
        DataError: If they would take more than half of this machine's memory, or as `read_image`.
    """
    refuse_too_many(len(paths), size, channels)
    images = np.empty((len(paths), channels, size, size), dtype=np.uint8)
    for index, path in enumerate(paths):
        images[index] = read_image(path, size, channels)
    return images


def refuse_too_many(count: int, size: int, channels: int) -> None:
    """Check, before anything is decoded, that `count` images fit.

    Raises:
        DataError: If they would take more than half of this machine's memory.
    """
    needed_bytes, memory_bytes = count * channels * size * size, _physical_memory_bytes()
    if memory_bytes is not None and needed_bytes > memory_bytes / 2:
        needed, memory = (f"{value / 2**30:.1f} GiB" for value in (needed_bytes, memory_bytes))
        raise DataError(
            f"{count:,} images of {channels} x {size} x {size} take {needed}, more than half of the {memory} of memory",
            "set a smaller data.image_size, or use fewer images",
        )


def find_classes(
    folder: Path, classes: Sequence[str] | None = None
) -> tuple[list[Path], NDArray[np.int64], tuple[str, ...]]:
    """The images of a folder that has one subfolder per class, without reading them.

    Args:
        folder: Holds ``CLASS/image``.
        classes: Known classes, in the order of their labels. Not each needs a subfolder, but each subfolder must be
            one of them. Without them the subfolders are the classes, in alphabetical order.

    Returns:
        Paths, class by class; the label of each, ``(N,)``; the classes.

    Raises:
        DataError: If there is no such folder or no class in it, a class has no images, or a class is not known.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}", f"create it with one folder of images per class: {folder}/CLASS"
        )
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise DataError(f"{folder} has no class folders", f"put the images of each class into {folder}/CLASS")
    known = tuple(found if classes is None else classes)
    if unknown := [name for name in found if name not in known]:
        raise DataError(
            f"{folder / unknown[0]} is no class of the training images ({_short_list(known)})",
            "rename or remove that folder, or train with this class",
        )
    paths: list[Path] = []
    labels: list[int] = []
    for name in found:
        of_class = list_images(folder / name)
        if not of_class:
            raise DataError(
                f"the class folder {folder / name} has no images",
                f"add some ({', '.join(sorted(suffix[1:] for suffix in SUFFIXES))}), or remove the folder",
            )
        paths += of_class
        labels += [known.index(name)] * len(of_class)
    return paths, np.array(labels, dtype=np.int64), known


def read_folder(
    folder: Path, size: int, channels: Literal[1, 3], classes: Sequence[str] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """All images ``(N, C, size, size)``, labels ``(N,)`` and classes of a folder with one subfolder per class.

    `classes` is as in `find_classes`, the rest as in `read_image`.

    Raises:
        DataError: As `find_classes` and `read_images`.
    """
    paths, labels, known = find_classes(folder, classes)
    return read_images(paths, size, channels), labels, known


def _to_mode(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, or 32 that hold 16; Pillow's own conversion would clip at 255
        deep = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    elif image.mode in _WITH_ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    if image.mode not in ("L", "1"):
        image = image.convert("RGB")  # by way of RGB, so that CMYK and palettes get the same weights when grey
    return image.convert(mode)


def _physical_memory_bytes() -> int | None:
    """What the machine has; None where the system does not tell (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _short_list(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
