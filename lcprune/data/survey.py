"""What is in a folder of images: classes, sizes, kinds, damaged files, copies. NumPy and Pillow only.

Every file is listed. Of a large folder, only some files are decoded or compared, and the result says how many.
"""

import hashlib
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lcprune.data.files import list_folder, train_folder
from lcprune.errors import DataError
from lcprune_runtime.files import class_names, is_image, loose_images, subfolders, suffix_of, walk
from lcprune_runtime.images import FORMATS, errors_named, read_image

SAMPLE = 2_000  # files whose header is read
DECODE_BYTES = 200_000_000  # of the sample's files; photographs of a camera decode at some 25 MB/s
HASH_FILES = 250_000
HASH_BYTES = 2_000_000_000
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)

_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 0x0100, 0x0101  # EXIF's, and so TIFF's, tags
_KINDS = {
    "1": "grey",
    "L": "grey",
    "LA": "grey, transparent",
    "La": "grey, transparent",
    "P": "palette",
    "PA": "palette, transparent",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "CMYK": "CMYK",
}
GREY_KINDS = frozenset({"grey", "grey, transparent", "16-bit grey"})
_MISSPELT = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test", "eval": "test"}


class FoundImage(NamedTuple):
    """An image file; a tuple because there may be hundreds of thousands."""

    path: str
    split: str
    """``train``, ``val`` or ``test``; empty in a folder that is not split."""
    label: str
    size_bytes: int


@dataclass(frozen=True)
class Sample:
    """What headers and pixels of a sample of the files show."""

    sampled: int
    """Files whose header was read."""
    decoded: int
    """Files whose pixels were read as well."""
    widths: tuple[float, ...]
    """`QUANTILES` of the widths in pixels, rotated upright; empty if nothing could be read, as the next ones."""
    heights: tuple[float, ...]
    shorter: tuple[float, ...]
    """Of the shorter sides."""
    elongation: tuple[float, ...]
    """Of the longer side over the shorter one."""
    kinds: Mapping[str, int]
    """Number of sampled files of each kind, such as ``RGB``."""
    rotated: int
    """Sampled files that EXIF turns."""
    damaged: Mapping[str, str]
    """Path of every file that cannot be read as an image, and what is wrong with it."""


@dataclass(frozen=True)
class Copies:
    """Files with the same content."""

    groups: tuple[tuple[FoundImage, ...], ...]
    """Files of each content that there is more than once."""
    same_size: int
    """Files that have the size of another file, and so may be copies."""
    compared: int
    """How many of those were read."""

    @property
    def leaks(self) -> tuple[tuple[FoundImage, ...], ...]:
        """Those groups that are in more than one split."""
        return tuple(group for group in self.groups if len({image.split for image in group}) > 1)

    @property
    def contradictions(self) -> tuple[tuple[FoundImage, ...], ...]:
        """Those groups that are in more than one class."""
        return tuple(group for group in self.groups if len({image.label for image in group}) > 1)


@dataclass(frozen=True)
class Survey:
    """A folder of images."""

    root: Path
    classes: tuple[str, ...]
    """In the order of their labels."""
    counts: Mapping[str, Mapping[str, int]]
    """Images of each class in each split; the one split of a folder without ``train/`` has an empty name."""
    other_files: Mapping[str, int]
    """Files that are no images, by suffix."""
    other_examples: tuple[str, ...]
    remarks: tuple[str, ...]
    """What is skipped and may have been meant to be read."""
    sample: Sample
    copies: Copies

    @property
    def train_counts(self) -> Mapping[str, int]:
        """Images of each class to learn from."""
        return self.counts["train" if "train" in self.counts else ""]

    @property
    def imbalance(self) -> float:
        """Training images of the largest class over those of the smallest."""
        return max(self.train_counts.values()) / min(self.train_counts.values())


def survey(root: Path) -> Survey:
    """Examines a folder of images: ``CLASS/image``, or ``train/CLASS/image`` with ``val/`` and ``test/`` beside it.

    Raises:
        DataError: If training would refuse the folder; see `list_folder`.
    """
    listing = list_folder(root)
    splits = {"": listing.splits["train"]} if train_folder(root) == root else listing.splits
    folders = {split: root / split for split in splits}
    images = [
        FoundImage(path, split, listing.classes[label], os.stat(path).st_size)
        for split, files in splits.items()
        for path, label in zip(files, files.labels, strict=True)
    ]
    inside = (folder / name for folder in folders.values() for name in class_names(folder))
    others = sorted(entry.path for folder in inside for entry in walk(folder) if not is_image(entry.name))
    counts = {split: Counter(image.label for image in images if image.split == split) for split in folders}
    return Survey(
        root=root,
        classes=listing.classes,
        counts=counts,
        other_files=dict(Counter(suffix_of(path) or "without suffix" for path in others).most_common()),
        other_examples=tuple(others[:5]),
        remarks=tuple(_remarks(root, folders)),
        sample=read_sample(images),
        copies=find_copies(images),
    )


def read_sample(images: Sequence[FoundImage]) -> Sample:
    """Headers of up to `SAMPLE` files, evenly spread, and pixels of as many as `DECODE_BYTES` allow."""
    damaged = {image.path: f"{image.path} is empty" for image in images if image.size_bytes == 0}
    sample = _evenly([image for image in images if image.size_bytes > 0], SAMPLE)
    sizes, kinds, rotated, decoded, left_bytes = [], Counter[str](), 0, 0, DECODE_BYTES
    for image in sample:
        try:
            width, height, kind, is_rotated = _header(image.path)
            if image.size_bytes <= left_bytes:
                left_bytes -= image.size_bytes
                decoded += 1
                read_image(Path(image.path), None, 3)
        except DataError as error:
            damaged[image.path] = error.problem
            continue
        sizes.append((width, height))
        kinds[kind] += 1
        rotated += is_rotated
    array = np.array(sizes, dtype=np.float64).reshape(-1, 2)
    shorter, longer = array.min(axis=1), array.max(axis=1)
    return Sample(
        sampled=len(sample),
        decoded=decoded,
        widths=_quantiles(array[:, 0]),
        heights=_quantiles(array[:, 1]),
        shorter=_quantiles(shorter),
        elongation=_quantiles(longer / shorter),
        kinds=dict(kinds.most_common()),
        rotated=rotated,
        damaged=damaged,
    )


def find_copies(images: Sequence[FoundImage]) -> Copies:
    """Files of equal content, by size, then SHA-256; up to `HASH_FILES` files and `HASH_BYTES` are read.

    Sizes that few files have come first: copies are likelier there.
    """
    by_size: defaultdict[int, list[FoundImage]] = defaultdict(list)
    for image in images:
        if image.size_bytes > 0:
            by_size[image.size_bytes].append(image)
    suspects = sorted((group for group in by_size.values() if len(group) > 1), key=len)
    by_content: defaultdict[bytes, list[FoundImage]] = defaultdict(list)
    compared, left_bytes = 0, HASH_BYTES
    for image in (image for group in suspects for image in group):
        if compared == HASH_FILES or image.size_bytes > left_bytes:
            break
        compared += 1
        left_bytes -= image.size_bytes
        if checksum := _sha256(image.path):
            by_content[checksum].append(image)
    groups = sorted(tuple(sorted(group)) for group in by_content.values() if len(group) > 1)
    return Copies(tuple(groups), sum(map(len, suspects)), compared)


def _remarks(root: Path, folders: Mapping[str, Path]) -> Iterator[str]:
    for folder in dict.fromkeys([root, *folders.values()]):
        if loose := loose_images(folder):
            yield f"{folder} itself holds images, in no class folder: {loose}, which are not read"
    for name in subfolders(root):
        meant = _MISSPELT.get(name.lower())
        if "train" in folders and name not in folders:
            yield f"{root / name} is not read" + (f": if it is the {meant} split, call it {meant}" if meant else "")
        elif "train" not in folders and meant:
            yield f"{root / name} is taken for a class: if it is the {meant} split, call it {meant}"


def _header(path: str) -> tuple[int, int, str, bool]:
    """Width and height of the upright image in pixels, kind of its pixels, whether EXIF turns it."""
    with errors_named(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a size or an EXIF block that is out of the ordinary
        with Image.open(path, formats=FORMATS) as image:
            turn = Image.Image.getexif(image).get(_ORIENTATION, 1)  # PNG's own would decode the whole image
            tags = getattr(image, "tag_v2", {})  # some versions of Pillow give the size of a TIFF file upright
            stored = (tags.get(_WIDTH, image.width), tags.get(_HEIGHT, image.height))
            width, height = stored if turn not in (5, 6, 7, 8) else stored[::-1]
            return width, height, _kind(image), turn in range(2, 9)


def _kind(image: Image.Image) -> str:
    tiles = getattr(image, "tile", [])
    stored = str(tiles[0][3]) if tiles else ""  # Pillow calls an RGB file of 16 bits plain RGB
    if image.mode.startswith("I"):
        return "16-bit grey"
    if "16" in stored and image.mode in ("RGB", "RGBA"):
        return f"16-bit {image.mode}"
    if image.mode == "P" and "transparency" in image.info:
        return "palette, transparent"
    return _KINDS.get(image.mode, image.mode)


def _quantiles(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.quantile(values, QUANTILES)) if len(values) else ()


def _evenly(images: Sequence[FoundImage], most: int) -> list[FoundImage]:
    count = min(most, len(images))
    return [images[index * len(images) // count] for index in range(count)]


def _sha256(path: str) -> bytes | None:
    """SHA-256 of a file; None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None
