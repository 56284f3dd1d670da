"""CIFAR-10 and CIFAR-100, which torchvision downloads, verifies and reads."""

import contextlib
import http.client
import socket
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lcprune.errors import DataError, torchvision_needed

_NETWORK_TIMEOUT_S = 30.0

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def read_cifar(
    source: str, root: Path, channels: Literal[1, 3], download: bool
) -> tuple[dict[str, tuple[Images, Labels]], tuple[str, ...]]:
    """Images ``(N, C, 32, 32)`` and labels ``(N,)`` of the ``train`` and the ``test`` split, and the classes.

    Args:
        source: ``cifar10`` or ``cifar100``.
        root: Folder that holds the set, or its archive.
        channels: 1 for grey, 3 for RGB.
        download: Whether the set may be downloaded where it is absent.

    Raises:
        DataError: If files are missing or damaged.
        SetupError: If torchvision cannot be imported.
    """
    with torchvision_needed():
        from torchvision import datasets
    kind = datasets.CIFAR10 if source == "cifar10" else datasets.CIFAR100
    if any(not path.is_file() for path in _md5_sums(kind, root)):
        _fetch(kind, root, download)
    try:
        loaded = {"train": kind(root, train=True), "test": kind(root, train=False)}
    except (OSError, RuntimeError) as error:
        damaged = [str(path) for path, md5 in _md5_sums(kind, root).items() if not _is_intact(path, md5)]
        raise DataError(
            f"damaged: {', '.join(damaged)} (the MD5 sum is wrong)" if damaged else f"{root} cannot be read: {error}",
            "delete what is damaged, then run this again to download it" if damaged else "fix the access rights",
        ) from None
    splits = {
        name: (_with_channels(split.data, channels), np.array(split.targets, dtype=np.int64))
        for name, split in loaded.items()
    }
    return splits, tuple(loaded["train"].classes)


def _with_channels(pixels: Images, channels: Literal[1, 3]) -> Images:
    """``(N, H, W, 3)``, as torchvision has it, to ``(N, C, H, W)``; RGB becomes grey as in `read_image`."""
    count, height, width, _ = pixels.shape
    if channels == 1:  # one tall image of all
        grey = Image.fromarray(pixels.reshape(count * height, width, 3)).convert("L")
        return np.array(grey).reshape(count, 1, height, width)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _md5_sums(kind: Any, root: Path) -> dict[Path, str]:
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
    """Unpacks the archive that lies in `root`, or downloads it.

    It happens in a temporary folder, from which whole files are moved: an interrupted download leaves nothing that a
    later run would take for data.
    """
    from torchvision.datasets.utils import extract_archive

    archive = root / kind.filename
    if not archive.is_file() and not download:
        raise _absent(kind, root, "downloading is switched off")
    if archive.is_file() and not _is_intact(archive, kind.tgz_md5):
        raise DataError(f"{archive} is damaged (its MD5 sum is wrong)", f"delete it, or get it again from {kind.url}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as staging, _guarded_download():
            if archive.is_file():
                extract_archive(archive, staging)
            else:
                kind(staging, download=True)
            target = root / kind.base_folder
            target.mkdir(exist_ok=True)
            for path in (Path(staging) / kind.base_folder).iterdir():
                path.replace(target / path.name)
    except (OSError, RuntimeError, EOFError, tarfile.TarError, http.client.HTTPException) as error:
        raise _absent(kind, root, f"it cannot be fetched: {error}") from None


def _absent(kind: Any, root: Path, reason: str) -> DataError:
    names = ", ".join(path.name for path in _md5_sums(kind, root))
    return DataError(
        f"{kind.__name__} is not (or not whole) in {root}, and {reason}",
        f"download {kind.url} by hand and put it there as {root / kind.filename}, "
        f"or unpack it so that {root / kind.base_folder} holds {names}; "
        "data.root or --data-root names another folder",
    )


@contextlib.contextmanager
def _guarded_download() -> Iterator[None]:
    """Sends what torchvision prints to stderr, as stdout carries results, and sets a timeout for silent servers."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)
