"""Finding image files, with as little work for each as hundreds of thousands of them allow. No image is opened."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcprune_runtime.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"})

_ADD_SOME = f"add some ({', '.join(sorted(suffix[1:] for suffix in SUFFIXES))}), or remove the folder"


@dataclass(frozen=True, eq=False)
class Files:
    """Image files and their labels, in two arrays.

    Forked workers share an array. Of Python's own strings each worker would make a copy, as reading one counts a
    reference.
    """

    paths: NDArray[np.bytes_]
    """Encoded for the file system, ``(N,)``; all are as long as the longest."""
    labels: NDArray[np.int64]
    """Class of every file, ``(N,)``."""

    @classmethod
    def of(cls, paths: Iterable[str], labels: Iterable[int]) -> "Files":
        """These files."""
        encoded = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
        return cls(encoded, np.array(list(labels), dtype=np.int64))

    @classmethod
    def joined(cls, parts: Iterable["Files"]) -> "Files":
        """All files of `parts`, in that order."""
        paths, labels = zip(*((part.paths, part.labels) for part in parts), strict=True)
        return cls(np.concatenate(paths), np.concatenate(labels))

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def path(self, index: int) -> str:
        """The path of a file, from 0."""
        return os.fsdecode(self.paths[index])

    def __iter__(self) -> Iterator[str]:
        """All paths."""
        return map(os.fsdecode, self.paths)

    def subset(self, indices: NDArray[np.int64]) -> "Files":
        """The files at `indices`, in that order."""
        return Files(self.paths[indices], self.labels[indices])


def is_image(name: str) -> bool:
    """Whether a file is taken for an image, by its suffix, in upper or lower case."""
    return suffix_of(name) in SUFFIXES


def suffix_of(name: str) -> str:
    """Suffix of a file name in lower case, such as ``.png``."""
    return os.path.splitext(name)[1].lower()


def walk(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Every file in a folder and the folders below it.

    Hidden files and folders are skipped: what lies beside images as ``._name.jpg`` is no image. Links to files count,
    links to folders are not followed.
    """
    inside: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                inside.append(entry.path)
            elif entry.is_file():
                yield entry
    for path in inside:
        yield from walk(path)


def scan(folder: str | Path) -> list[str]:
    """The image files that `walk` finds, sorted as `Path` sorts: folder by folder."""
    return sorted((entry.path for entry in walk(folder) if is_image(entry.name)), key=lambda path: path.split(os.sep))


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, hidden ones left out, in alphabetical order."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def loose_images(folder: Path) -> int:
    """Number of images in a folder itself, outside of its class folders."""
    return sum(is_image(path.name) and path.is_file() for path in folder.iterdir())


def class_names(folder: Path) -> tuple[str, ...]:
    """The classes of a folder, which are its subfolders, in alphabetical order; their files are not looked at.

    Raises:
        DataError: If there is no such folder or no subfolder in it, or one has a name that cannot be printed.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}", f"create it with one folder of images per class: {folder}/CLASS"
        )
    found = tuple(subfolders(folder))
    if not found:
        has = f"{loose} images but " if (loose := loose_images(folder)) else ""
        raise DataError(f"{folder} has {has}no class folders", f"put the images of each class into {folder}/CLASS")
    refuse_unprintable(found, folder)
    return found


def refuse_unprintable(classes: Iterable[str], origin: Path) -> None:
    """Refuses names with control characters, which a terminal obeys, and those that are no UTF-8.

    Raises:
        DataError: If one of `classes`, which come from `origin`, is such a name.
    """
    for name in classes:
        if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name):
            raise DataError(
                f"the class {name!r} of {origin} has characters that cannot be printed",
                "rename it: a model could not be opened with this name in it",
            )


def list_classes(folder: Path, classes: Sequence[str] | None = None) -> tuple[Files, tuple[str, ...]]:
    """The image files of a folder that has one subfolder per class, class by class, and the classes.

    Args:
        folder: Holds ``CLASS/image``.
        classes: Known classes, in the order of their labels. Not each needs a subfolder, but each subfolder must be
            one of them. Without them the subfolders are the classes, in alphabetical order.

    Raises:
        DataError: If there is no such folder or no class in it, a class has no images, or a class is not known.
    """
    found = class_names(folder)
    known = found if classes is None else tuple(classes)
    if unknown := [name for name in found if name not in known]:
        names = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        raise DataError(
            f"{folder / unknown[0]} is no class of the training images ({names})",
            "rename or remove that folder, or train with this class",
        )
    parts: list[Files] = []
    for name in found:
        of_class = scan(folder / name)
        if not of_class:
            suffixes = Counter(suffix_of(entry.name) or "without suffix" for entry in walk(folder / name))
            others = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common())
            has = f"has no images (other files: {others})" if others else "has no images"
            raise DataError(f"the class folder {folder / name} {has}", _ADD_SOME)
        parts.append(Files.of(of_class, [known.index(name)] * len(of_class)))
    return Files.joined(parts), known
