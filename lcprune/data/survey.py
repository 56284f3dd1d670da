"""What is in a folder of images: classes, sizes, kinds, damaged files, copies. NumPy and Pillow only.

Every file is listed. Of a large folder, pixels and contents are looked at for a part of the files only, and the result
says how large that part is.
"""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lcprune.data.files import SUFFIXES, refuse_unprintable, train_folder
from lcprune.data.images import FORMATS, read_image
from lcprune.errors import DataError

SPLITS = ("train", "val", "test")
SAMPLE = 2_000  # files whose header is read
DECODE_BYTES = 200_000_000  # of the sample's files; photographs of a camera decode at some 25 MB/s
HASH_FILES = 250_000
HASH_BYTES = 2_000_000_000
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)

_CHUNK_BYTES = 1 << 20
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
class Damaged:
    """A file that cannot be read as an image."""

    path: str
    problem: str


@dataclass(frozen=True)
class Looked:
    """What headers and pixels of a sample of the files say."""

    sampled: int
    """Files whose header was read."""
    decoded: int
    """Files whose pixels were read besides."""
    widths: tuple[float, ...]
    """`QUANTILES` of the widths in pixels, upright as EXIF says; empty if nothing could be read, as the next ones."""
    heights: tuple[float, ...]
    shorter: tuple[float, ...]
    """Of the shorter sides."""
    elongation: tuple[float, ...]
    """Of the longer side over the shorter one."""
    kinds: Mapping[str, int]
    """Number of sampled files of each kind, such as ``RGB``."""
    rotated: int
    """Sampled files that EXIF turns."""
    damaged: tuple[Damaged, ...]


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
    def extra(self) -> int:
        """Files that could go without a content being lost."""
        return sum(len(group) - 1 for group in self.groups)

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
    """What is passed over and may have been meant to be read."""
    looked: Looked
    copies: Copies

    @property
    def is_split(self) -> bool:
        """Whether there is a ``train/``."""
        return "train" in self.counts

    @property
    def train_counts(self) -> Mapping[str, int]:
        """Images of each class to learn from."""
        return self.counts["train" if self.is_split else ""]

    @property
    def imbalance(self) -> float:
        """Training images of the largest class over those of the smallest."""
        return max(self.train_counts.values()) / min(self.train_counts.values())


def survey(root: Path) -> Survey:
    """Look at a folder of images: ``CLASS/image``, or ``train/CLASS/image`` with ``val/`` and ``test/`` beside it.

    Raises:
        DataError: If there is no such folder, or training would refuse it: fewer than two classes, a class without
            images, or a class that ``train/`` does not have.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}", "name a folder that holds one folder of images per class")
    found = _split_folders(root)
    counts = {split: dict.fromkeys(_folders(folder), 0) for split, folder in found.items()}
    images: list[FoundImage] = []
    others: list[str] = []
    for image in _everything(found, counts):
        if os.path.splitext(image.path)[1].lower() in SUFFIXES:
            images.append(image)
            counts[image.split][image.label] += 1
        else:
            others.append(image.path)
    other_files = Counter(os.path.splitext(path)[1].lower() or "without suffix" for path in others)
    _check(root, found, counts, other_files)
    return Survey(
        root=root,
        classes=tuple(counts["train" if "train" in counts else ""]),
        counts=counts,
        other_files=dict(other_files.most_common()),
        other_examples=tuple(others[:5]),
        remarks=tuple(_remarks(root, found)),
        looked=look(images),
        copies=find_copies(images),
    )


def look(images: Sequence[FoundImage]) -> Looked:
    """Headers of up to `SAMPLE` files, evenly spread, and pixels of as many as `DECODE_BYTES` allow."""
    damaged = [Damaged(image.path, f"{image.path} is empty") for image in images if image.size_bytes == 0]
    filled = [image for image in images if image.size_bytes > 0]
    sample = _evenly(filled, SAMPLE)
    sizes, kinds, rotated, decoded, left_bytes = [], Counter[str](), 0, 0, DECODE_BYTES
    for image in sample:
        try:
            width, height, kind, turned = _header(image.path)
            if image.size_bytes <= left_bytes:
                left_bytes -= image.size_bytes
                decoded += 1
                read_image(Path(image.path), None, 3)
        except DataError as error:
            damaged.append(Damaged(image.path, error.problem))
            continue
        sizes.append((width, height))
        kinds[kind] += 1
        rotated += turned
    array = np.array(sizes, dtype=np.float64).reshape(-1, 2)
    shorter, longer = array.min(axis=1), array.max(axis=1)
    return Looked(
        sampled=len(sample),
        decoded=decoded,
        widths=_quantiles(array[:, 0]),
        heights=_quantiles(array[:, 1]),
        shorter=_quantiles(shorter),
        elongation=_quantiles(longer / shorter),
        kinds=dict(kinds.most_common()),
        rotated=rotated,
        damaged=tuple(damaged),
    )


def find_copies(images: Sequence[FoundImage]) -> Copies:
    """Files of equal content, told by size, then SHA-256; up to `HASH_FILES` files and `HASH_BYTES` are read.

    Sizes that few files have come first: there, copies are likelier.
    """
    by_size: dict[int, list[FoundImage]] = {}
    for image in images:
        if image.size_bytes > 0:
            by_size.setdefault(image.size_bytes, []).append(image)
    suspects = sorted((group for group in by_size.values() if len(group) > 1), key=len)
    by_content: dict[bytes, list[FoundImage]] = {}
    compared, left_bytes = 0, HASH_BYTES
    for image in (image for group in suspects for image in group):
        if compared == HASH_FILES or image.size_bytes > left_bytes:
            break
        compared += 1
        left_bytes -= image.size_bytes
        if digest := _digest(image.path):
            by_content.setdefault(digest, []).append(image)
    groups = sorted(tuple(sorted(group)) for group in by_content.values() if len(group) > 1)
    return Copies(tuple(groups), sum(map(len, suspects)), compared)


def _split_folders(root: Path) -> dict[str, Path]:
    if (root / "train").is_dir():
        return {split: root / split for split in SPLITS if (root / split).is_dir()}
    if any((root / split).is_dir() for split in SPLITS):
        train_folder(root)  # says what is missing
    return {"": root}


def _everything(found: Mapping[str, Path], counts: Mapping[str, Mapping[str, int]]) -> Iterator[FoundImage]:
    """Every file of every class, in the order of splits and classes."""
    for split, folder in found.items():
        for label in counts[split]:
            for path, size_bytes in _files(folder / label):
                yield FoundImage(path, split, label, size_bytes)


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Path and size in bytes of every file below a folder, sorted within each folder; hidden ones are passed over."""
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.startswith("."):  # what lies beside images as ``._name.jpg`` is no image
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.is_file():
                yield entry.path, entry.stat().st_size


def _check(
    root: Path, found: Mapping[str, Path], counts: Mapping[str, Mapping[str, int]], other_files: Mapping[str, int]
) -> None:
    train = found.get("train", root)
    classes = counts["train" if "train" in counts else ""]
    if not classes:
        loose = sum(1 for path in train.iterdir() if path.suffix.lower() in SUFFIXES)
        has = f"{loose} images but no class folders" if loose else "no class folders"
        raise DataError(f"{train} has {has}", f"put the images of each class into a folder of their own: {train}/CLASS")
    if len(classes) < 2:
        raise DataError(f"{train} has only the class {next(iter(classes))}", "add a folder for each further class")
    refuse_unprintable(classes, train)
    for split, of_classes in counts.items():
        where = found[split]
        if unknown := [name for name in of_classes if name not in classes]:
            raise DataError(
                f"{where / unknown[0]} is no class of the training images ({len(classes)} classes in {train})",
                "rename or remove that folder, or add it to the training images",
            )
        if empty := [name for name, count in of_classes.items() if count == 0]:
            others = ", ".join(f"{count} {suffix}" for suffix, count in other_files.items())
            raise DataError(
                f"the class folder {where / empty[0]} has no images" + (f" (other files: {others})" if others else ""),
                f"add some ({', '.join(sorted(suffix[1:] for suffix in SUFFIXES))}), or remove the folder",
            )


def _remarks(root: Path, found: Mapping[str, Path]) -> Iterator[str]:
    for folder in {root, *found.values()}:
        with os.scandir(folder) as entries:
            loose = sum(os.path.splitext(entry.name)[1].lower() in SUFFIXES for entry in entries if entry.is_file())
        if loose:
            yield f"{folder} itself holds images, in no class folder: {loose}, which are not read"
    for name in _folders(root):
        meant = _MISSPELT.get(name.lower())
        if "train" in found and name not in found:
            yield f"{root / name} is not read" + (f": if it is the {meant} split, call it {meant}" if meant else "")
        elif "train" not in found and meant:
            yield f"{root / name} is taken for a class: if it is the {meant} split, call it {meant}"


def _header(path: str) -> tuple[int, int, str, bool]:
    """Width and height of the upright image in pixels, kind of its pixels, whether EXIF turns it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a size or an EXIF block that is out of the ordinary
            with Image.open(path, formats=FORMATS) as image:
                turn = Image.Image.getexif(image).get(_ORIENTATION, 1)  # PNG's own would decode the whole image
                tags = getattr(image, "tag_v2", {})  # some versions of Pillow give the size of a TIFF file upright
                stored = (tags.get(_WIDTH, image.width), tags.get(_HEIGHT, image.height))
                width, height = stored if turn not in (5, 6, 7, 8) else stored[::-1]
                return width, height, _kind(image), turn in range(2, 9)
    except Exception as error:  # Pillow's decoders raise nearly everything on a damaged file
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as an image: {reason}", "replace the file, or remove it") from None


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
    if len(images) <= most:
        return list(images)
    return [images[index * len(images) // most] for index in range(most)]


def _digest(path: str) -> bytes | None:
    """SHA-256 of a file; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return None
    return digest.digest()
