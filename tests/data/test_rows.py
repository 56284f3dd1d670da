"""The rows of a batch that one of several processes makes, and labels without images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lcprune.data.file_images import FileImages
from lcprune.data.loaders import TrainLoader
from lcprune.data.sampling import Targets
from lcprune.data.sources import Split
from lcprune_runtime.files import Files
from lcprune_runtime.images import Preparation

BATCH = 6
CLASSES = 5
ROWS = (slice(0, 2), slice(2, 6), slice(5, 6))
KINDS: dict[str, dict[str, Any]] = {
    "labels": {},
    "weighted": {"loss_weights": torch.tensor([1.0, 2.0, 0.5, 4.0, 3.0])},
    "mixup": {"mixup": 0.4},
    "cutmix, weighted": {"cutmix": 1.0, "loss_weights": torch.tensor([1.0, 2.0, 0.5, 4.0, 3.0])},
    "either": {"mixup": 0.4, "cutmix": 1.0},
}


def split(width: int = 6) -> Split:
    images = np.random.default_rng(3).integers(0, 256, (20, 3, 6, width), dtype=np.uint8)
    return Split(images, np.arange(20, dtype=np.int64) % CLASSES)


def from_files(folder: Path, *, skips: bool = False) -> Split:
    images = split()
    paths = [folder / f"{index:02}.png" for index in range(len(images))]
    for path, pixels in zip(paths, images.images, strict=True):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    files = Files.of(map(str, paths), images.labels)
    stored = FileImages(files, np.arange(len(images)), Preparation(size=6, channels=3), skips=skips)
    return Split(stored.as_array(), images.labels)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Split]:
    """Images that are in memory, and not square; and others in files."""
    return {"memory": split(width=8), "files": from_files(tmp_path_factory.mktemp("images"))}


def loader(split: Split, rows: slice | None, kind: str = "labels", augment: Any = "crop_flip", **keys: Any) -> Any:
    return TrainLoader(
        split, BATCH, augment, 2, 5, "cpu", targets=Targets(CLASSES, 5, **KINDS[kind]), rows=rows, **keys
    )


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["memory", "files"])
def test_rows_are_those_of_the_whole_batch_bit_for_bit(splits: dict[str, Split], where: str, kind: str) -> None:
    whole = loader(splits[where], None, kind, flip="alternating")
    for rows in ROWS:
        some = loader(splits[where], rows, kind, flip="alternating")
        labels_only = loader(splits[where], rows, kind, labels_only=True)
        assert some.steps_per_epoch == whole.steps_per_epoch
        for step in (0, 2, 4):
            images, labels = whole.batch(step)
            own_images, own_labels = some.batch(step)
            assert same(images[rows], own_images)
            assert same(labels[rows], own_labels)
            assert same(some.labels(step), own_labels)
            assert same(whole.labels(step), labels)
            no_images, only_labels = labels_only.batch(step)
            assert len(no_images) == 0
            assert same(only_labels, own_labels)


@pytest.mark.parametrize("augment", ["none", "crop", "resized_crop", "randaugment"])
def test_whatever_changes_them(splits: dict[str, Split], augment: str) -> None:
    for rows in ROWS:
        whole, some = (loader(splits["files"], which, augment=augment) for which in (None, rows))
        assert all(same(whole.batch(step)[0][rows], some.batch(step)[0]) for step in (0, 3))


@pytest.mark.parametrize("kind", ["labels", "mixup"])
@pytest.mark.parametrize("where", ["memory", "files"])
def test_channels_last_stays(splits: dict[str, Split], where: str, kind: str) -> None:
    images, _ = loader(splits[where], slice(2, 4), kind, channels_last=True).batch(0)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_only_these_rows_are_read_and_no_file_for_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = FileImages.read
    monkeypatch.setattr(FileImages, "read", lambda self, index: read.append(index) or plain(self, index))
    files = from_files(tmp_path)
    batches = loader(files, slice(1, 3))
    labels = batches.labels(1)
    assert read == []
    assert same(batches.batch(1)[1], labels)
    assert len(read) == 2


def test_labels_of_images_that_replace_damaged_ones(tmp_path: Path) -> None:
    files = from_files(tmp_path, skips=True)
    for index in range(0, len(files), 3):
        (tmp_path / f"{index:02}.png").write_bytes(b"no image")
    batches = loader(files, None)
    for step in (0, 1, 2):
        assert same(batches.labels(step), batches.batch(step)[1])
    assert batches.skipped
