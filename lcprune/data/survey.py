"""What is in a folder of images: classes, sizes, kinds, damaged files, copies. NumPy and Pillow only.

Every file is listed. Of a large folder, only some files are decoded or compared, and the result says how many.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lcprune.data.files import list_folder, train_folder
from lcprune.data.manifest import read_manifest
from lcprune.data.remarks import DARK, darkness, layout_remarks, scale_hint, similar_classes
from lcprune.errors import DataError
from lcprune_runtime.decoding import has_sixteen_bits, orientation, with_image
from lcprune_runtime.files import Files, class_names, is_image, suffix_of, walk
from lcprune_runtime.images import read_image

SAMPLE = 2_000  # files whose header is read
DECODE_BYTES = 200_000_000  # of the sample's files; photographs of a camera decode at some 25 MB/s
HASH_FILES = 250_000
HASH_BYTES = 2_000_000_000
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)

_WIDTH, _HEIGHT = 0x0100, 0x0101  # TIFF's tags
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
    brightest: int | None = None
    """Largest value, 0 to 255, of the decoded files of 16 bits; None if there are none."""


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
    images = [*_found(splits, listing.classes)]
    inside = (folder / name for folder in folders.values() for name in class_names(folder))
    others = sorted(entry.path for folder in inside for entry in walk(folder) if not is_image(entry.path))
    sample = read_sample(images)
    counts = {split: Counter(image.label for image in images if image.split == split) for split in folders}
    return Survey(
        root=root,
        classes=listing.classes,
        counts=counts,
        other_files=dict(Counter(suffix_of(path) or "without suffix" for path in others).most_common()),
        other_examples=tuple(others[:5]),
        remarks=(*layout_remarks(root), *_sample_remarks(sample)),
        sample=sample,
        copies=find_copies(images),
    )


def training_remarks(root: Path, manifest: Path | None, images: NDArray[np.uint8]) -> Iterator[str]:
    """Warnings about image files before a training on these `images`, ``(N, C, H, W)``.

    Args:
        root: Folder of the images.
        manifest: Table of the images, relative to `root`; None where they are in folders.
        images: The training images.
    """
    if manifest is not None:
        table = root / manifest.expanduser()
        listing = read_manifest(table)
        yield from similar_classes(listing.classes, table)
        leaks = find_copies([*_found(listing.splits, listing.classes)]).leaks
        if leaks:
            example = " = ".join(image.path for image in leaks[0][:3])
            yield f"images in more than one split, which makes the accuracy there too high: {len(leaks)} ({example})"
    else:
        yield from layout_remarks(root)
    if remark := darkness(images):
        yield remark


def read_sample(images: Sequence[FoundImage]) -> Sample:
    """Headers of up to `SAMPLE` files, evenly spread, and pixels of as many as `DECODE_BYTES` allow."""
    damaged = {image.path: f"{image.path} is empty" for image in images if image.size_bytes == 0}
    sample = _evenly([image for image in images if image.size_bytes > 0], SAMPLE)
    sizes, kinds, rotated, decoded, left_bytes = [], Counter[str](), 0, 0, DECODE_BYTES
    brightest: int | None = None
    for image in sample:
        try:
            width, height, kind, is_rotated = _header(image.path)
            if image.size_bytes <= left_bytes:
                left_bytes -= image.size_bytes
                decoded += 1
                pixels = read_image(Path(image.path), None, 3)
                if kind.startswith("16-bit"):
                    brightest = max(brightest or 0, int(pixels.max()))
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
        brightest=brightest,
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


def _header(path: str) -> tuple[int, int, str, bool]:
    """Width and height of the upright image in pixels, kind of its pixels, whether EXIF turns it."""

    def read(image: Image.Image) -> tuple[int, int, str, bool]:
        turn = orientation(image)
        tags = getattr(image, "tag_v2", {})  # some versions of Pillow give the size of a TIFF file upright
        stored = (tags.get(_WIDTH, image.width), tags.get(_HEIGHT, image.height))
        width, height = stored if turn not in (5, 6, 7, 8) else stored[::-1]
        return width, height, _kind(image), turn in range(2, 9)

    return with_image(path, read)


def _kind(image: Image.Image) -> str:
    if image.mode == "I" and image.format != "PNG":
        return "32-bit grey"
    if has_sixteen_bits(image):
        return "16-bit grey" if image.mode.startswith("I") else f"16-bit {image.mode}"
    if image.mode == "P" and "transparency" in image.info:
        return "palette, transparent"
    return _KINDS.get(image.mode, image.mode)


def _sample_remarks(sample: Sample) -> Iterator[str]:
    if sample.brightest is not None and sample.brightest < DARK:
        yield (
            f"of 16 bits the upper 8 are kept, and no 16-bit image looked at has more than {sample.brightest} there: "
            + scale_hint(sample.brightest)
        )


def _found(splits: Mapping[str, Files], classes: Sequence[str]) -> Iterator[FoundImage]:
    for split, files in splits.items():
        for path, label in zip(files, files.labels, strict=True):
            size_bytes = _size_bytes(path)
            if size_bytes is not None:
                yield FoundImage(path, split, classes[label], size_bytes)


def _size_bytes(path: str) -> int | None:
    """None for a file that has vanished."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


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
