"""Finding image files, with as little work for each as hundreds of thousands of them allow. No image is opened."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lcprune_runtime.errors import DataError, fix_of

SUFFIXES = frozenset(
    {
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff"),
        *(".heic", ".heif", ".avif"),  # with a plug-in; without it they are refused, and not passed over in silence
    }
)
HEAD_BYTES = 64
"""As much of a file as tells what it is."""

_NO_SUFFIX = re.compile(rf"|\.\d+|({'|'.join(map(re.escape, sorted(SUFFIXES)))})[^a-z0-9.].*")
"""Endings that say nothing: none, a number, or what a download has added to a suffix, as ``.jpg_large``."""
_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_NOT_OURS = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})
"""Folders of operating systems and archives. Some hold thumbnails."""

_ADD_SOME = f"add some ({', '.join(sorted(suffix[1:] for suffix in SUFFIXES))}), or remove the folder"
_DIFFERENCE = "differ in nothing but spaces, capitals, leading zeros or the form of their Unicode letters"


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


def is_image(path: str) -> bool:
    """Whether a file is taken for an image: by its suffix, in upper or lower case, or by its content if it has none."""
    suffix = suffix_of(path)
    return suffix in SUFFIXES or (_NO_SUFFIX.fullmatch(suffix) is not None and begins_as_image(path))


def begins_as_image(path: str) -> bool:
    """Whether the content of a file is that of an image; False for one that cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_bmp = head[:2] == b"BM" and head[14:18] in (b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0")
    return head.startswith(_STARTS) or is_webp or is_bmp or container_of(head) is not None


def container_of(head: bytes) -> Literal["HEIF", "AVIF"] | None:
    """What an ISO media file holds, of which these are the first bytes; None if it is neither, or something else."""
    if head[4:8] != b"ftyp":
        return None
    brands = {head[start : start + 4] for start in (8, *range(16, min(len(head), int.from_bytes(head[:4], "big")), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIF" if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"} else None


def suffix_of(name: str) -> str:
    """Suffix of a file name in lower case, such as ``.png``."""
    return os.path.splitext(name)[1].lower()


def walk(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Every file in a folder and the folders below it.

    Hidden files and folders are skipped: what lies beside images as ``._name.jpg`` is no image; so are folders that
    systems make. Links to files count, links to folders are not followed. What vanishes meanwhile is passed over.

    Raises:
        DataError: If a folder cannot be read.
    """
    inside: list[str] = []
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _NOT_OURS:
                inside.append(entry.path)
        elif os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file(follow_symlinks=False):
            yield entry
    for path in inside:
        yield from walk(path)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden; nothing if it has vanished."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        refused = isinstance(error, PermissionError)
        raise DataError(
            f"the folder {folder} cannot be read: {error.strerror or error}",
            f"make it readable (chmod u+rx '{folder}'), or move it out of there" if refused else fix_of(error, folder),
        ) from None


def scan(folder: str | Path) -> list[str]:
    """The image files that `walk` finds, sorted as `Path` sorts: folder by folder."""
    return sorted((entry.path for entry in walk(folder) if is_image(entry.path)), key=lambda path: path.split(os.sep))


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, without those that `walk` skips, in alphabetical order; links to them count."""
    return sorted(entry.name for entry in _entries(folder) if entry.name not in _NOT_OURS and os.path.isdir(entry.path))


def loose_images(folder: Path) -> int:
    """Number of images in a folder itself, outside of its class folders."""
    return sum(os.path.isfile(entry.path) and is_image(entry.path) for entry in _entries(folder))


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
    check_class_names(found, folder)
    return found


def check_class_names(classes: Iterable[str], origin: Path) -> None:
    """Refuses names with control characters, which a terminal obeys, those that are no UTF-8, and two that look alike.

    Raises:
        DataError: If one of `classes`, which come from `origin`, is such a name.
    """
    seen: dict[str, str] = {}
    for name in classes:
        if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name):
            raise DataError(
                f"the class {name!r} of {origin} has characters that cannot be printed",
                "rename it: a model could not be opened with this name in it",
            )
        other = seen.setdefault(_appearance(name), name)
        if other != name:
            raise DataError(
                f"the classes {other!r} and {name!r} of {origin} {_DIFFERENCE}",
                "give both the same name if they are one class, else rename one of them",
            )


def unknown_class(name: str, where: str | Path, known: Sequence[str]) -> DataError:
    """The error about a class that is none of those that are known."""
    for other in known:
        if _appearance(name).casefold() == _appearance(other).casefold():
            return DataError(
                f"{where} is no class of the training images: {name!r} and {other!r} {_DIFFERENCE}",
                f"rename it to {other}, as it is there",
            )
    names = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
    return DataError(
        f"{where} is no class of the training images ({names})", "rename or remove it, or train with this class"
    )


def _appearance(name: str) -> str:
    """What a reader sees of a class: no spaces around it, invisible signs, Unicode forms, or zeros before a number."""
    seen = "".join(sign for sign in unicodedata.normalize("NFC", name) if unicodedata.category(sign) != "Cf")
    text = " ".join(seen.split())
    return str(int(text)) if text.isdecimal() else text


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
        inside = folder / unknown[0]
        if any(name in known for name in subfolders(inside)):
            raise DataError(f"{folder} has no folders of the classes, but {inside} has", f"name that folder: {inside}")
        raise unknown_class(unknown[0], inside, known)
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
