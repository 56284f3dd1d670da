"""The images of a folder that training reads, in splits; `lcprune_runtime.files` finds them. No image is opened."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lcprune.errors import DataError
from lcprune_runtime.files import Files, is_image, list_classes, loose_images, subfolders, walk

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Listing:
    """The image files of a source."""

    classes: tuple[str, ...]
    """Name of every class; its index is its label."""
    splits: Mapping[str, Files]
    """``train``, and ``val`` and ``test`` where the source has them."""


def list_folder(root: Path, val_is_test: bool = False) -> Listing:
    """The files of a folder of images: ``train/CLASS/*`` with ``val/`` and ``test/`` likewise, or ``CLASS/*``.

    Args:
        root: The folder.
        val_is_test: Whether ``val/`` holds the test images where there is no ``test/``, as ImageNet has it.

    Raises:
        DataError: As `list_classes`, or if there is only one class.
    """
    top = train_folder(root)
    # All folders are listed before any image is decoded: a misspelt class in val/ should not cost minutes.
    train, classes = list_classes(top)
    if len(classes) < 2:
        inside = top / classes[0]
        further = "add a folder for each further class"
        holds = f"name {inside} if that is what holds the classes or train/, else {further}"
        raise DataError(f"{top} has only the class {classes[0]}", holds if subfolders(inside) else further)
    splits = {"train": train}
    for name in split_names(root) if top != root else ():
        if name == "train":
            continue
        if not subfolders(root / name):
            raise _no_class_folders(root / name, f", or remove {root / name}")
        splits[name], _ = list_classes(root / name, classes)
    if val_is_test and "val" in splits and "test" not in splits:
        splits["test"] = splits.pop("val")
    return Listing(classes, splits)


def split_names(root: Path) -> list[str]:
    """Those of `SPLITS` that a folder has. ``Train`` is none, also on a file system that would find it by ``train``."""
    inside = subfolders(root)
    return [name for name in SPLITS if name in inside]


def train_folder(root: Path) -> Path:
    """The folder with the class folders of the training images: ``ROOT/train``, or ROOT itself if nothing is split.

    Raises:
        DataError: If there are none.
    """
    if not root.is_dir():
        raise DataError(
            f"{root} is no folder" if root.exists() else f"there is no folder {root}",
            "name the folder that holds CLASS/image or train/CLASS/image; unpack an archive first",
        )
    here = split_names(root)
    for name in here:
        if not subfolders(root / name) and loose_images(root / name):
            raise _no_class_folders(root / name, f"; if {name} is a class, rename it: splits have that name")
    if "train" in here:
        return root / "train"
    has = ""
    if not here:
        if any(is_image(entry.path) for name in subfolders(root) for entry in walk(root / name)):
            return root
        loose = f"{count} images but " if (count := loose_images(root)) else ""
        has = f", and {root} has {loose}no class folders with images"
    raise DataError(
        f"there is no folder {root / 'train'}{has}",
        f"put the training images into {root}/train/CLASS/ (or all images into {root}/CLASS/), or name another folder",
    )


def _no_class_folders(folder: Path, otherwise: str) -> DataError:
    has = f"{loose} images but " if (loose := loose_images(folder)) else ""
    return DataError(
        f"{folder} has {has}no class folders", f"put the images of each class into {folder}/CLASS{otherwise}"
    )
