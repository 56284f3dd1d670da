"""The rows of a batch that one of several processes makes, and labels without images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lcprune.data.file_images import FileImages
from lcprune.data.files import Files
from lcprune.data.images import Preparation
from lcprune.data.loaders import TrainLoader
from lcprune.data.sampling import Targets
from lcprune.data.sources import Split
from lcprune.data.streaming import StreamLoader

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


def split(width: int = 8, count: int = 20) -> Split:
    images = np.random.default_rng(3).integers(0, 256, (count, 3, 8, width), dtype=np.uint8)
    return Split(images, np.arange(count, dtype=np.int64) % CLASSES)


def in_memory(kind: str, rows: slice | None, **changes: Any) -> TrainLoader:
    settings: dict[str, Any] = {"augment": "crop_flip", "pad": 2, "seed": 5, "device": "cpu"} | changes
    return TrainLoader(split(width=6), BATCH, targets=Targets(CLASSES, 5, **KINDS[kind]), rows=rows, **settings)


def streamed(kind: str, rows: slice | None, augment: Any = "crop_flip", **changes: Any) -> StreamLoader:
    return StreamLoader(
        split(), BATCH, augment, 4, 5, "cpu", targets=Targets(CLASSES, 5, **KINDS[kind]), rows=rows, **changes
    )


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [in_memory, streamed])
def test_rows_are_those_of_the_whole_batch_bit_for_bit(make: Any, kind: str) -> None:
    whole = make(kind, None, flip="alternating")
    for rows in ROWS:
        some = make(kind, rows, flip="alternating")
        assert some.steps_per_epoch == whole.steps_per_epoch
        for step in (0, 2, 4):
            images, labels = whole.batch(step)
            own_images, own_labels = some.batch(step)
            assert same(images[rows], own_images)
            assert same(labels[rows], own_labels)
            assert same(some.labels(step), own_labels)
            assert same(whole.labels(step), labels)


@pytest.mark.parametrize("augment", ["none", "crop", "resized_crop", "randaugment"])
def test_whatever_changes_them(augment: str) -> None:
    for rows in ROWS:
        whole, some = streamed("labels", None, augment), streamed("labels", rows, augment)
        assert all(same(whole.batch(step)[0][rows], some.batch(step)[0]) for step in (0, 3))


def test_channels_last_stays() -> None:
    for kind in ("labels", "mixup"):
        images, _ = in_memory(kind, slice(2, 4), channels_last=True).batch(0)
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_only_these_rows_are_read_and_no_file_for_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = FileImages.read
    monkeypatch.setattr(FileImages, "read", lambda self, index: read.append(index) or plain(self, index))
    files = from_files(tmp_path, skips=False)
    loader = StreamLoader(files, BATCH, "none", 0, 5, "cpu", rows=slice(1, 3))
    labels = loader.labels(1)
    assert read == []
    assert same(loader.batch(1)[1], labels)
    assert len(read) == 2


def test_labels_of_images_that_replace_damaged_ones(tmp_path: Path) -> None:
    files = from_files(tmp_path, skips=True)
    for index in range(0, len(files), 3):
        (tmp_path / f"{index:02}.png").write_bytes(b"no image")
    loader = StreamLoader(files, BATCH, "none", 0, 5, "cpu")
    for step in (0, 1, 2):
        assert same(loader.labels(step), loader.batch(step)[1])
    assert loader.skipped


def from_files(folder: Path, *, skips: bool) -> Split:
    images = split(width=6)
    for index, pixels in enumerate(images.images):
        Image.fromarray(pixels.transpose(1, 2, 0)[:6]).save(folder / f"{index:02}.png")
    files = Files.of((str(folder / f"{index:02}.png") for index in range(len(images))), images.labels)
    stored = FileImages(files, np.arange(len(images)), Preparation(size=6, channels=3), skips=skips)
    return Split(stored.as_array(), images.labels)
