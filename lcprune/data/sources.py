"""Where images and labels come from: the embedded digits, CIFAR-10, CIFAR-100, or a folder of images.

Everything is a NumPy array in memory; torch is loaded only for the CIFAR sets, which torchvision reads.
"""

import contextlib
import http.client
import importlib.resources
import socket
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lcprune.data.images import find_classes, read_images, refuse_too_many
from lcprune.data.split import balanced_split
from lcprune.errors import DataError, SetupError
from lcprune.recipe import DataConfig

DIGIT_CLASSES = tuple("0123456789")

_STD_FLOOR = 1e-3  # a channel that never changes must not be divided by zero
_NETWORK_TIMEOUT_S = 30.0
_CHUNK = 512  # images; bounds the memory of per-pixel arithmetic


@dataclass(frozen=True)
class Split:
    """Images and their labels."""

    images: NDArray[np.uint8]
    """``(N, C, H, W)``, 0 to 255."""
    labels: NDArray[np.int64]
    """Class of every image, ``(N,)``."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def subset(self, indices: NDArray[np.int64]) -> "Split":
        """The images at `indices`, in that order."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """The three splits and what a network must know about them. A split that does not exist has no images."""

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    """Name of every class; its place is its label."""
    mean: tuple[float, ...]
    """Of every channel over the training images, in 0..1."""
    std: tuple[float, ...]
    """Likewise, never below 0.001."""
    val_indices: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Where the validation images stood in the whole training set; empty if nothing was held out of it."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


@dataclass(frozen=True)
class _Source:
    """A source before the validation images are held out; `val` is None unless it brings its own."""

    train: Split
    val: Split | None
    test: Split
    classes: tuple[str, ...]


def load(config: DataConfig, data_root: Path, seed: int, download: bool = True) -> Dataset:
    """The images that a recipe asks for, split, with their mean and standard deviation.

    Args:
        config: The ``data:`` section of the recipe.
        data_root: Folder of the images where the recipe names none.
        seed: Decides which images are held out for validation.
        download: Whether CIFAR may be fetched where it is absent.

    Raises:
        DataError: If images or labels are missing, damaged, too many for the memory, or too few for the split.
        SetupError: If CIFAR is asked for and torchvision cannot be imported.
    """
    root = (data_root if config.root is None else config.root).expanduser()
    channels = config.channels or (1 if config.source == "digits" else 3)
    if config.source == "digits":
        source = _digits(channels)
    elif config.source == "imagefolder":
        source = _image_folder(root, config.image_size, channels)
    else:
        source = _cifar(config.source, root, channels, download)
    return _hold_out(source, config.val_size, seed)


def describe(config: DataConfig, data_root: Path) -> tuple[int, tuple[int, int, int]]:
    """Number of classes and image shape ``(C, H, W)`` of what a recipe asks for, without reading any image.

    Raises:
        DataError: If a folder of images is not there or has no classes.
    """
    channels = config.channels or (1 if config.source == "digits" else 3)
    if config.source == "imagefolder":
        size = config.image_size or 0  # DataConfig refuses a folder without one
        root = (data_root if config.root is None else config.root).expanduser()
        return len(find_classes(root / "train")[2]), (channels, size, size)
    classes, size = {"digits": (10, 8), "cifar10": (10, 32), "cifar100": (100, 32)}[config.source]
    return classes, (channels, size, size)


def read_digits() -> tuple[Split, Split]:
    """The embedded UCI digits, grey 8 x 8: 1,437 images to train on and 360 to test on, always the same."""
    packed = importlib.resources.files("lcprune.data") / "digits.npz"
    with packed.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        levels, labels, test = arrays["images"], arrays["labels"], arrays["test"]
    images = np.round(levels * (255 / 16)).astype(np.uint8)
    everything = Split(images, labels.astype(np.int64))
    return everything.subset(np.delete(np.arange(len(labels)), test)), everything.subset(test.astype(np.int64))


def _hold_out(source: _Source, val_size: int, seed: int) -> Dataset:
    for split in filter(None, (source.train, source.val, source.test)):
        _check_labels(split, source.classes)
    if source.val is not None and val_size > 0:
        raise DataError(
            f"there is a val/ folder, and data.val_size asks for {val_size} images out of train/ besides",
            "set data.val_size: 0, or remove val/",
        )
    train, val = source.train, source.val
    val_indices = np.empty(0, dtype=np.int64)
    if val is None:
        _check_val_size(val_size, len(train))
        train_indices, val_indices = balanced_split(train.labels, val_size, seed)
        val = train.subset(val_indices)
        if val_size:
            train = train.subset(train_indices)
            _check_every_class(train, val, source.classes)
    mean, std = _statistics(train.images)
    return Dataset(train, val, source.test, source.classes, mean, std, val_indices)


def _check_labels(split: Split, classes: tuple[str, ...]) -> None:
    if len(split) and not 0 <= split.labels.min() <= split.labels.max() < len(classes):
        raise DataError(
            f"labels go from {split.labels.min()} to {split.labels.max()}, but there are {len(classes)} classes",
            f"labels must be in 0 to {len(classes) - 1}: get the data again",
        )


def _check_val_size(val_size: int, total: int) -> None:
    if val_size >= total:
        raise DataError(
            f"data.val_size is {val_size}, but there are only {total} training images",
            f"set data.val_size well below {total}",
        )


def _check_every_class(train: Split, val: Split, classes: tuple[str, ...]) -> None:
    for split, where in ((val, "validation"), (train, "training")):
        counts = np.bincount(split.labels, minlength=len(classes))
        if lacking := [name for name, count in zip(classes, counts, strict=True) if count == 0]:
            change = "more" if split is val else "less"
            raise DataError(
                f"data.val_size: {len(val)} leaves no {where} image of class {lacking[0]}",
                f"hold out {change} than {len(val)} images, or add images of that class",
            )


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


def _digits(channels: Literal[1, 3]) -> _Source:
    train, test = (Split(np.repeat(s.images, channels, axis=1), s.labels) for s in read_digits())
    return _Source(train, None, test, DIGIT_CLASSES)


def _image_folder(root: Path, size: int | None, channels: Literal[1, 3]) -> _Source:
    if size is None:
        raise ValueError("imagefolder needs image_size")  # DataConfig refuses this
    if not (root / "train").is_dir():
        raise DataError(
            f"there is no folder {root / 'train'}",
            f"put the training images into {root}/train/CLASS/, or name another folder as data.root or --data-root",
        )
    # All folders are looked at before any image is decoded: a misspelt class in val/ should not cost minutes.
    found = {"train": find_classes(root / "train")}
    classes = found["train"][2]
    if len(classes) < 2:
        raise DataError(f"{root / 'train'} has only the class {classes[0]}", "add a folder for each further class")
    for name in ("val", "test"):
        if (root / name).is_dir():
            found[name] = find_classes(root / name, classes)
    refuse_too_many(sum(len(paths) for paths, _, _ in found.values()), size, channels)
    splits = {name: Split(read_images(paths, size, channels), labels) for name, (paths, labels, _) in found.items()}
    nothing = splits["train"].subset(np.empty(0, dtype=np.int64))
    return _Source(splits["train"], splits.get("val"), splits.get("test", nothing), classes)


def _cifar(source: Literal["cifar10", "cifar100"], root: Path, channels: Literal[1, 3], download: bool) -> _Source:
    kind = _torchvision_class(source)
    if any(not path.is_file() for path in _cifar_files(kind, root)):
        _fetch(kind, root, download)
    try:
        train, test = kind(root, train=True), kind(root, train=False)
    except (OSError, RuntimeError) as error:
        damaged = [str(path) for path, md5 in _cifar_files(kind, root).items() if not _is_intact(path, md5)]
        raise DataError(
            f"damaged: {', '.join(damaged)} (the MD5 sum is wrong)" if damaged else f"{root} cannot be read: {error}",
            "delete what is damaged, then run this again to download it" if damaged else "mend the access rights",
        ) from None
    return _Source(_cifar_split(train, channels), None, _cifar_split(test, channels), tuple(train.classes))


def _torchvision_class(source: Literal["cifar10", "cifar100"]) -> Any:
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        # RuntimeError: "operator torchvision::nms does not exist", where the two packages are of different builds.
        raise SetupError(
            f"torchvision does not work with the installed torch: {error}",
            "install both together from the package index into a fresh virtual environment: "
            "python -m venv .venv && .venv/bin/pip install torch torchvision",
        ) from None
    return datasets.CIFAR10 if source == "cifar10" else datasets.CIFAR100


def _cifar_files(kind: Any, root: Path) -> dict[Path, str]:
    """Every file that torchvision reads, and its MD5 sum."""
    listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    return {root / kind.base_folder / name: md5 for name, md5 in listed}


def _is_intact(path: Path, md5: str) -> bool:
    from torchvision.datasets.utils import check_integrity

    try:
        return bool(check_integrity(path, md5))
    except OSError:
        return False


def _fetch(kind: Any, root: Path, download: bool) -> None:
    """Unpack the archive that lies in `root`, or download it.

    It happens in a folder of its own, from which whole files are moved: an interrupted download leaves nothing
    that a later run would take for data.
    """
    from torchvision.datasets.utils import extract_archive

    archive = root / kind.filename
    if not archive.is_file() and not download:
        raise _absent(kind, root, "downloading is switched off")
    if archive.is_file() and not _is_intact(archive, kind.tgz_md5):
        raise DataError(f"{archive} is damaged (its MD5 sum is wrong)", f"delete it, or get it again from {kind.url}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as staging, _quiet_stdout(), _impatient():
            if archive.is_file():
                extract_archive(archive, staging)
            else:
                kind(staging, download=True)
            _move_files(Path(staging) / kind.base_folder, root / kind.base_folder)
    except (OSError, RuntimeError, EOFError, tarfile.TarError, http.client.HTTPException) as error:
        raise _absent(kind, root, f"it cannot be fetched: {error}") from None


def _absent(kind: Any, root: Path, reason: str) -> DataError:
    names = ", ".join(path.name for path in _cifar_files(kind, root))
    return DataError(
        f"{kind.__name__} is not (or not whole) in {root}, and {reason}",
        f"download {kind.url} by hand and put it there as {root / kind.filename}, "
        f"or unpack it so that {root / kind.base_folder} holds {names}; "
        "data.root or --data-root names another folder",
    )


def _move_files(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        path.replace(target / path.name)


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Send what torchvision prints to stderr, because stdout carries results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Let a server that does not answer fail; torchvision itself would wait for it without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _cifar_split(loaded: Any, channels: Literal[1, 3]) -> Split:
    images = np.ascontiguousarray(loaded.data.transpose(0, 3, 1, 2))  # torchvision holds (N, H, W, C)
    labels = np.array(loaded.targets, dtype=np.int64)
    return Split(_to_grey(images) if channels == 1 else images, labels)


def _to_grey(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB to grey, ``(N, 3, H, W)`` to ``(N, 1, H, W)``: ITU-R 601 in the whole numbers that Pillow uses."""
    grey = np.empty((len(images), 1, *images.shape[2:]), dtype=np.uint8)
    for start in range(0, len(images), _CHUNK):
        red, green, blue = images[start : start + _CHUNK].astype(np.uint32).swapaxes(0, 1)
        grey[start : start + _CHUNK, 0] = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return grey
