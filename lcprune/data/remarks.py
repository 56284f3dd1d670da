"""What may be wrong with images although training accepts them: what was guessed, and what is not read."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcprune.data.files import split_names, train_folder
from lcprune.errors import DataError
from lcprune_runtime.files import loose_images, subfolders

DARK = 64
"""Levels below which the upper 8 of 16 bits leave little: those of 14 bits."""

_LOOKED_AT = 64  # training images, evenly spread
_NAMES = {"validation": "val", "valid": "val", "val": "val", "dev": "val", "eval": "test"}
_NAMES |= {"training": "train", "train": "train", "testing": "test", "test": "test"}
_FILLERS = ("set", "data", "images", "image", "imgs", "img", "split", "folder")


def split_meant(name: str) -> str | None:
    """The split that the name of a folder may mean, such as ``train`` for ``Training_Set``; None for a class."""
    text = re.sub("[^a-z]", "", name.casefold())
    for filler in _FILLERS:
        text = text.removesuffix(filler).removeprefix(filler)
    return _NAMES.get(text)


def layout_remarks(root: Path) -> Iterator[str]:
    """What a folder of images has that is not read, or is taken for something that it may not be."""
    top = train_folder(root)
    is_split = top != root
    folders = [root / name for name in split_names(root)] if is_split else [root]
    for folder in dict.fromkeys([root, *folders]):
        if loose := loose_images(folder):
            yield f"{folder} itself holds images, in no class folder: {loose}, which are not read"
    for name in subfolders(root):
        meant = split_meant(name)
        if is_split and root / name not in folders:
            yield f"{root / name} is not read" + (f": if it is the {meant} split, call it {meant}" if meant else "")
        elif not is_split and meant:
            yield f"{root / name} is taken for a class: if it is the {meant} split, call it {meant}"
    yield from _class_remarks(top)


def _class_remarks(folder: Path) -> Iterator[str]:
    for name in subfolders(folder):
        inside = subfolders(folder / name)
        if len(inside) > 1 and not loose_images(folder / name):
            named = ", ".join(inside[:3]) + (", ..." if len(inside) > 3 else "")
            yield f"{folder / name} holds no images itself, but folders ({named}): all are of the class {name}"
    yield from similar_classes(subfolders(folder), folder)


def similar_classes(classes: Iterable[str], origin: Path) -> Iterator[str]:
    """A remark about every two classes, which come from `origin`, that are the same but for capitals."""
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            yield f"the classes {other} and {name} of {origin} differ only in capitals"


def darkness(images: NDArray[np.uint8]) -> str | None:
    """A remark about training images ``(N, C, H, W)`` of which none is bright, as those of 12 bits stored in 16 are."""
    brightest = 0
    for index in np.unique(np.linspace(0, len(images) - 1, _LOOKED_AT).astype(np.int64)):
        with suppress(DataError):  # training itself says which files are damaged, or leaves them out
            brightest = max(brightest, int(images[int(index)].max()))
        if brightest >= DARK:
            return None
    return f"no training image looked at has a pixel above {brightest} of 255: {scale_hint(brightest)}"


def scale_hint(brightest: int) -> str:
    """What images with few levels need."""
    return f"{brightest + 1} levels are left of what they hold; if that is 12 bits in 16, scale them to all 16"
