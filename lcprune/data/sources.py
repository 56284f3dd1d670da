"""Where images and labels come from: the embedded digits, CIFAR-10, CIFAR-100, or image files.

Images that fit into memory are a NumPy array, others stay in their files. torch is loaded only for the CIFAR sets,
which torchvision reads.
"""

import importlib.resources
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lcprune.data.cache import Cache, DiskCache, MemoryCache, cache_folder
from lcprune.data.file_images import FileImages
from lcprune.data.files import Listing, list_folder, train_folder
from lcprune.data.manifest import read_manifest
from lcprune.data.split import balanced_split
from lcprune.errors import DataError
from lcprune.recipe import DataConfig
from lcprune.recipe.schema.data import NATIVE_SIZE
from lcprune_runtime.files import Files, class_names
from lcprune_runtime.images import Preparation, fits_into_memory, refuse_too_many

DIGIT_CLASSES = tuple("0123456789")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training images, as pretrained weights expect them."""

_STD_FLOOR = 1e-3  # a channel that never changes must not be divided by zero
_CHUNK = 512  # images; bounds the memory of a histogram
_MEASURED = 1024  # images in files, evenly spread, whose mean and standard deviation stand for all
_MEMORY_SHARE = 0.25  # of the memory; the training loader copies the images
_TEST_SEED = 0  # another train.seed must not change the test images
_NO_INDICES = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Split:
    """Images and their labels."""

    images: NDArray[np.uint8]
    """``(N, C, H, W)``, 0 to 255; or `FileImages`, which is indexed like such an array by slices and lists."""
    labels: NDArray[np.int64]
    """Class of every image, ``(N,)``."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def subset(self, indices: NDArray[np.int64]) -> "Split":
        """The images at `indices`, in that order; those in files stay there."""
        images = self.images
        chosen = images.subset(indices).as_array() if isinstance(images, FileImages) else images[indices]
        return Split(chosen, self.labels[indices])

    def mirrored(self) -> "Split":
        """Every image flipped horizontally; those in files stay there."""
        images = self.images
        if isinstance(images, FileImages):
            return Split(replace(images, mirrors=True).as_array(), self.labels)
        return Split(np.ascontiguousarray(images[..., ::-1]), self.labels)


@dataclass(frozen=True)
class Dataset:
    """The three splits and their classes, mean and standard deviation. A split that does not exist has no images."""

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    """Name of every class; its index is its label."""
    mean: tuple[float, ...]
    """Of every channel over the training images, in 0..1."""
    std: tuple[float, ...]
    """Likewise, never below 0.001."""
    val_indices: NDArray[np.int64] = field(default_factory=lambda: _NO_INDICES)
    """Indices of the validation images in the whole training set; empty if nothing was held out of it."""
    skipped: tuple[str, ...] = ()
    """Damaged files that were left out. Training images that stay in files are checked during training instead."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def load(config: DataConfig, data_root: Path | None, seed: int, download: bool = True) -> Dataset:
    """The images that a recipe asks for, split, with their mean and standard deviation.

    Args:
        config: The ``data:`` section of the recipe.
        data_root: Folder of the images; None: as the recipe says.
        seed: Decides which images are held out for validation.
        download: Whether CIFAR may be downloaded where it is absent.

    Raises:
        DataError: If images or labels are missing, damaged, too many for the memory, or too few for the split.
        SetupError: If CIFAR is asked for and torchvision cannot be imported.
    """
    root = _existing(config, data_root)
    skipped: list[str] = []
    if config.has_files:
        splits, classes, skipped = _read_files(config, root)
    elif config.source in ("cifar10", "cifar100"):
        from lcprune.data.cifar import read_cifar

        arrays, classes = read_cifar(config.source, root, config.input_channels, download)
        splits = {name: Split(*of_split) for name, of_split in arrays.items()}
    else:
        train, test = (Split(np.repeat(s.images, config.input_channels, axis=1), s.labels) for s in read_digits())
        splits, classes = {"train": train, "test": test}, DIGIT_CLASSES
    splits, val_indices = _with_val(splits, config.val_size, classes, seed)
    for name in ("val", "test") if config.on_bad_image == "skip" else ():  # an accuracy counts every image once
        images = splits[name].images
        if isinstance(images, FileImages):
            splits[name], damaged = _without_damaged(images, splits[name].labels, in_memory=False)
            skipped += damaged
    mean, std = _normalization(config, splits["train"].images)
    return Dataset(**splits, classes=classes, mean=mean, std=std, val_indices=val_indices, skipped=tuple(skipped))


def preparation(config: DataConfig, image_shape: tuple[int, int, int]) -> Preparation:
    """How an image file becomes an input ``(C, H, W)`` of a network that was trained on this data."""
    channels: Literal[1, 3] = 1 if image_shape[0] == 1 else 3
    return Preparation(image_shape[1], channels, config.shorter_side, config.interpolation)


def describe(config: DataConfig, data_root: Path | None) -> tuple[int, tuple[int, int, int]]:
    """Number of classes and image shape ``(C, H, W)`` of the data that a recipe asks for, without reading any image.

    Raises:
        DataError: If a folder of images does not exist or has no classes.
    """
    if not config.has_files:
        classes, size = {"digits": 10, "cifar10": 10, "cifar100": 100}[config.source], NATIVE_SIZE[config.source]
    else:
        root, size = _existing(config, data_root), config.input_size or 0  # DataConfig refuses files without a size
        classes = len(_list(config, root).classes if config.manifest else class_names(train_folder(root)))
    return classes, (config.input_channels, size, size)


def _existing(config: DataConfig, data_root: Path | None) -> Path:
    """Folder of the images; one of image files must be there."""
    root = config.folder(data_root)
    if config.has_files and not root.exists():
        raise DataError(f"there is no folder {root}", "name the folder of the images: --data-root FOLDER")
    return root


def read_digits() -> tuple[Split, Split]:
    """The embedded UCI digits, grey 8 x 8: 1,437 images to train on and 360 to test on, always the same."""
    packed = importlib.resources.files("lcprune.data") / "digits.npz"
    with packed.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        levels, labels, test = arrays["images"], arrays["labels"], arrays["test"]
    images = np.round(levels * (255 / 16)).astype(np.uint8)
    everything = Split(images, labels.astype(np.int64))
    return everything.subset(np.delete(np.arange(len(labels)), test)), everything.subset(test.astype(np.int64))


def _with_val(
    splits: dict[str, Split], val_size: int, classes: tuple[str, ...], seed: int
) -> tuple[dict[str, Split], NDArray[np.int64]]:
    """All three splits, of which one may be empty, and the indices of the training images held out for validation."""
    train = splits["train"]
    splits = {"test": train.subset(_NO_INDICES), **splits}
    if "val" in splits:
        if val_size > 0:
            raise DataError(
                f"there is a val/ folder, and data.val_size asks for {val_size} images out of train/ besides",
                "set data.val_size: 0, or remove val/",
            )
        return splits, _NO_INDICES
    kept, held_out = _hold_out("val_size", val_size, train.labels, seed)
    val = train.subset(held_out)
    if val_size:
        train = train.subset(kept)
        _check_every_class(train, val, classes)
    return {**splits, "train": train, "val": val}, held_out


def _hold_out(key: str, size: int, labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the training images that remain and of those that are held out for ``data.<key>``."""
    if size >= len(labels):
        raise DataError(
            f"data.{key} is {size}, but there are only {len(labels)} training images",
            f"set data.{key} well below {len(labels)}",
        )
    return balanced_split(labels, size, seed)


def _check_every_class(train: Split, val: Split, classes: tuple[str, ...]) -> None:
    for split, name, change in ((val, "validation", "more"), (train, "training", "less")):
        counts = np.bincount(split.labels, minlength=len(classes))
        if not counts.all():
            raise DataError(
                f"data.val_size: {len(val)} leaves no {name} image of class {classes[int(counts.argmin())]}",
                f"hold out {change} than {len(val)} images, or add images of that class",
            )


def _normalization(
    config: DataConfig, images: NDArray[np.uint8] | FileImages
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel, in 0..1: the recipe's, ImageNet's, or those of the images."""
    if config.mean is not None and config.std is not None:
        return config.mean, config.std
    if config.normalize == "imagenet" or config.source == "imagenet":
        if config.input_channels == 3:
            return IMAGENET_MEAN, IMAGENET_STD
        return (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_STD) / 3,)
    if isinstance(images, FileImages):
        images = images[np.unique(np.linspace(0, len(images) - 1, _MEASURED).astype(np.int64))]
    return _statistics(images)


def _statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel, in 0..1, from whole numbers and so without rounding on the way."""
    mean, std = [], []
    levels = np.arange(256)
    for channel in range(images.shape[1]):
        histogram = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), _CHUNK):
            histogram += np.bincount(images[start : start + _CHUNK, channel].ravel(), minlength=256)
        count, total, squares = (int((histogram * levels**power).sum()) for power in (0, 1, 2))
        mean.append(total / count / 255)
        std.append(max((count * squares - total**2) ** 0.5 / count / 255, _STD_FLOOR))
    return tuple(mean), tuple(std)


def _list(config: DataConfig, root: Path) -> Listing:
    """The files of the source; test images are taken out of the training images where that is asked for."""
    if config.manifest is not None:
        listing = read_manifest(root / config.manifest.expanduser())
    else:
        listing = list_folder(root, val_is_test=config.source == "imagenet")
    if not config.test_size:
        return listing
    if "test" in listing.splits:
        raise DataError(
            f"there are test images, and data.test_size asks for {config.test_size} more of the training images",
            "set data.test_size: 0",
        )
    files = listing.splits["train"]
    train, test = _hold_out("test_size", config.test_size, files.labels, _TEST_SEED)
    return replace(listing, splits={**listing.splits, "train": files.subset(train), "test": files.subset(test)})


def _read_files(config: DataConfig, root: Path) -> tuple[dict[str, Split], tuple[str, ...], list[str]]:
    """Splits of image files, in memory if they fit; the classes; damaged files that were left out of memory."""
    listing = _list(config, root)
    files = Files.joined(listing.splits.values())
    size = config.input_size or 0  # DataConfig refuses files without one
    prepared = preparation(config, (config.input_channels, size, size))
    streams = _streams(config, len(files), prepared)
    cache = _cache(config, root, prepared, len(files))
    everything = np.arange(len(files))
    images = FileImages(files, everything, prepared, cache, config.on_bad_image == "skip", config.workers)
    splits: dict[str, Split] = {}
    skipped: list[str] = []
    ends = np.cumsum([len(of_split) for of_split in listing.splits.values()])
    for name, indices in zip(listing.splits, np.split(everything, ends[:-1]), strict=True):
        of_split, labels = images.subset(indices), files.labels[indices]
        if streams:
            splits[name] = Split(of_split.as_array(), labels)
        else:
            splits[name], damaged = _without_damaged(of_split, labels, in_memory=True)
            skipped += damaged
    return splits, listing.classes, skipped


def _streams(config: DataConfig, count: int, prepared: Preparation) -> bool:
    """Whether images stay in their files.

    Raises:
        DataError: If they may not, and there are too many.
    """
    if config.stream == "always" or config.source == "imagenet":
        return True
    if config.stream == "never":
        refuse_too_many(count, prepared.size, prepared.channels)
        return False
    # Random crops are taken from the whole image, of which memory would hold the center alone.
    needs_whole = config.crop == "center" and config.augment in ("resized_crop", "randaugment")
    return needs_whole or not fits_into_memory(count, prepared.size, prepared.channels, _MEMORY_SHARE)


def _cache(config: DataConfig, root: Path, prepared: Preparation, count: int) -> Cache | None:
    limit_bytes = int(config.cache_gb * 1e9)
    if config.cache == "memory":
        return MemoryCache(count, limit_bytes)
    if config.cache == "none":
        return None
    settings = {
        "root": str(root.absolute()),
        "size": None if prepared.shorter_side else prepared.size,  # the size of a crop does not change what is cached
        "shorter_side": prepared.shorter_side,
        "channels": prepared.channels,
        "interpolation": prepared.interpolation,
    }
    return DiskCache(cache_folder(), json.dumps(settings, sort_keys=True), limit_bytes)


def _without_damaged(files: FileImages, labels: NDArray[np.int64], in_memory: bool) -> tuple[Split, list[str]]:
    """The images that can be read, which stay in their files unless `in_memory`, and the damaged files."""
    pixels = np.empty(files.shape if in_memory else (0,), dtype=np.uint8)
    readable: list[int] = []
    for index, image in files.readable():
        if in_memory:
            pixels[len(readable)] = image
        readable.append(index)
    kept = np.array(readable, dtype=np.int64)
    damaged = [files.path(index) for index in np.delete(np.arange(len(files)), kept).tolist()]
    images = pixels[: len(kept)] if in_memory else files.subset(kept).as_array()
    return Split(images, labels[kept]), damaged
