"""Finding image files, with as little work for each as hundreds of thousands of them allow. No image is opened."""

import os
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcprune.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True, eq=False)
class Paths:
    """Paths in two pieces of memory, which forked workers share for good.

    Every text of Python's own would be copied into each worker that reads it, since reading it counts who does.
    """

    text: bytearray
    """All of them, one after the other."""
    ends: NDArray[np.int64]
    """Where each ends, ``(N,)``."""

    def __len__(self) -> int:
        """Number of paths."""
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        """The path at `index`, from 0."""
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(bytes(self.text[start : int(self.ends[index])]))

    def __iter__(self) -> Iterator[str]:
        """One after the other."""
        return (self[index] for index in range(len(self)))


def together(paths: Iterable[str]) -> Paths:
    """These paths in little memory."""
    text, ends = bytearray(), array("q")
    for path in paths:
        text += os.fsencode(path)
        ends.append(len(text))
    return Paths(text, np.array(ends, dtype=np.int64))


@dataclass(frozen=True)
class Files:
    """Image files and their labels."""

    paths: Paths
    labels: NDArray[np.int64]
    """Class of every file, ``(N,)``."""

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def subset(self, indices: NDArray[np.int64]) -> "Files":
        """The files at `indices`, in that order."""
        return Files(together(self.paths[index] for index in indices.tolist()), self.labels[indices])


@dataclass(frozen=True)
class Listing:
    """What a source of files holds."""

    classes: tuple[str, ...]
    """Name of every class; its place is its label."""
    train: Files
    val: Files | None
    """None unless the source brings its own validation images."""
    test: Files | None


NO_FILES = Files(together(()), np.empty(0, dtype=np.int64))


def scan(folder: str | Path) -> list[str]:
    """Every image file in a folder and the folders below it, sorted by path; told by the suffix, in any case.

    Hidden files and folders are passed over: what lies beside images as ``._name.jpg`` is no image. Links to files
    count, links to folders are not followed.
    """
    found = list(_walk(str(folder)))
    found.sort(key=lambda path: path.split(os.sep))  # as Path sorts: folder by folder
    return found


def class_names(folder: Path) -> tuple[str, ...]:
    """The sub-folders of a folder, which are its classes, in alphabetical order; their files are not looked at.

    Raises:
        DataError: If there is no such folder or no sub-folder in it, or one has a name that cannot be printed.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}", f"create it with one folder of images per class: {folder}/CLASS"
        )
    with os.scandir(folder) as entries:
        found = tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))
    if not found:
        raise DataError(f"{folder} has no class folders", f"put the images of each class into {folder}/CLASS")
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
    """The image files of a folder that has one sub-folder per class, class by class, and the classes.

    Args:
        folder: Holds ``CLASS/image``.
        classes: Known classes, in the order of their labels. Not each needs a sub-folder, but each sub-folder must be
            one of them. Without them the sub-folders are the classes, in alphabetical order.

    Raises:
        DataError: If there is no such folder or no class in it, a class has no images, or a class is not known.
    """
    found = class_names(folder)
    known = found if classes is None else tuple(classes)
    label_of = {name: label for label, name in enumerate(known)}
    if unknown := [name for name in found if name not in label_of]:
        raise DataError(
            f"{folder / unknown[0]} is no class of the training images ({_short_list(known)})",
            "rename or remove that folder, or train with this class",
        )
    counts: list[int] = []
    paths = together(_class_by_class(folder, found, counts))
    labels = np.repeat(np.array([label_of[name] for name in found], dtype=np.int64), counts)
    return Files(paths, labels), known


def _class_by_class(folder: Path, classes: Sequence[str], counts: list[int]) -> Iterator[str]:
    """The image files of each class; how many there are of it is added to `counts`."""
    for name in classes:
        of_class = scan(folder / name)
        if not of_class:
            raise DataError(
                f"the class folder {folder / name} has no images",
                f"add some ({', '.join(sorted(suffix[1:] for suffix in SUFFIXES))}), or remove the folder",
            )
        counts.append(len(of_class))
        yield from of_class


def list_folder(root: Path, val_is_test: bool = False) -> Listing:
    """What a folder of images holds: ``train/CLASS/*`` with ``val/`` and ``test/`` of the same shape, or ``CLASS/*``.

    Args:
        root: The folder.
        val_is_test: Whether ``val/`` holds what is tested on where there is no ``test/``, as ImageNet has it.

    Raises:
        DataError: As `list_classes`, or if there is only one class.
    """
    top = train_folder(root)
    # All folders are looked at before any image is decoded: a misspelt class in val/ should not cost minutes.
    train, classes = list_classes(top)
    if len(classes) < 2:
        raise DataError(f"{top} has only the class {classes[0]}", "add a folder for each further class")
    if top == root:
        return Listing(classes, train, None, None)
    val, test = (list_classes(root / name, classes)[0] if (root / name).is_dir() else None for name in ("val", "test"))
    return Listing(classes, train, None, val) if val_is_test and test is None else Listing(classes, train, val, test)


def train_folder(root: Path) -> Path:
    """Where the class folders of the training images are: ``ROOT/train``, or ROOT itself where nothing is split.

    Raises:
        DataError: If there are none.
    """
    if (root / "train").is_dir():
        return root / "train"
    apart = any((root / name).is_dir() for name in ("val", "test"))
    if apart or not root.is_dir() or not any(_has_images(root / name) for name in _folders(root)):
        raise DataError(
            f"there is no folder {root / 'train'}",
            f"put the training images into {root}/train/CLASS/ (or all images into {root}/CLASS/), or name another "
            "folder as data.root or --data-root",
        )
    return root


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _has_images(folder: Path) -> bool:
    return next(_walk(str(folder)), None) is not None


def _walk(folder: str) -> Iterator[str]:
    inside: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                inside.append(entry.path)
            elif os.path.splitext(name)[1].lower() in SUFFIXES and entry.is_file():
                yield entry.path
    for path in inside:
        yield from _walk(path)


def _short_list(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
