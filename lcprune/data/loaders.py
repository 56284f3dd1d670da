"""Batches of images for torch.

A training batch is a function of the seed and the step alone, so that an interrupted run continues exactly, without the
state of any random generator in its checkpoints.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from lcprune.data.file_images import FileImages
from lcprune.data.in_memory import InMemoryBatches
from lcprune.data.sampling import BatchSampler, Targets
from lcprune.data.sources import Split
from lcprune.data.streaming import StreamedBatches
from lcprune.data.workers import read_ahead
from lcprune_runtime.progress import tracked


class TrainLoader:
    """Shuffled, augmented training batches, one for each step.

    Images in memory are cropped and flipped on the device. Images in files, and images that a transform of torchvision
    augments, are made one by one on the CPU, ahead of time by worker processes.

    Args:
        split: The training images.
        batch_size: Images in a batch. An incomplete last batch of an epoch is dropped.
        augment: ``crop`` takes a random crop of each padded image; ``crop_flip`` also mirrors half of them;
            ``resized_crop`` and ``randaugment`` are described in `random_transform`.
        pad: Black pixels around an image before it is cropped by ``crop`` and ``crop_flip``.
        seed: Decides the order and every random change.
        device: Receives the batches.
        channels_last: Whether batches have that memory format.
        flip: See `BatchSampler`; ignored unless `augment` is ``crop_flip``.
        targets: Targets of a batch, and the mixing of its images; None: its labels.
        weights: How often each image is drawn, ``(N,)``; None: once in an epoch.
        rows: Which rows of every batch are made, bit-identical to those of the whole batch; None: all. If images are
            mixed, the whole batch is made, and the rows are taken from it.
        interpolation: How ``resized_crop`` and ``randaugment`` resize.
        crop_scale: Smallest and largest part of the image that they take.
        workers: Processes that make batches; 0: they are made when they are asked for.
        labels_only: Whether batches have labels and no images, for processes that have no first layers.

    Raises:
        DataError: If there are fewer images than `batch_size`.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        augment: Literal["none", "crop", "crop_flip", "resized_crop", "randaugment"],
        pad: int,
        seed: int,
        device: torch.device | str,
        *,
        channels_last: bool = False,
        flip: Literal["random", "alternating"] = "random",
        targets: Targets | None = None,
        weights: Tensor | None = None,
        rows: slice | None = None,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
        crop_scale: tuple[float, float] = (0.08, 1.0),
        workers: int = 0,
        labels_only: bool = False,
    ) -> None:
        device = torch.device(device)
        self._targets = targets or Targets(classes=0, seed=seed)
        self._size: tuple[int, int] = split.images.shape[2:]
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._labels_only = labels_only
        made = self._kept = slice(None)
        if rows is not None and self._targets.mixes:
            self._kept = rows
        elif rows is not None:
            made = rows
        margin = pad if augment in ("crop", "crop_flip") else 0
        sampler = BatchSampler(len(split), batch_size, seed, margin, flip, weights, made)
        self.steps_per_epoch = sampler.steps_per_epoch
        self._batches: InMemoryBatches | StreamedBatches
        if isinstance(split.images, FileImages) or augment in ("resized_crop", "randaugment"):
            self._batches = StreamedBatches(split, sampler, augment, interpolation, crop_scale, device, workers)
        else:
            self._batches = InMemoryBatches(split, sampler.to(device), augment == "crop_flip", device, channels_last)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)``, float32 in 0..1, and labels ``(B,)`` of a step, counted from 0 over all epochs.

        With `targets` the labels are what `Targets.of` gives; with `rows` only these, ``(B', C, H, W)`` and ``(B',)``.

        Raises:
            DataError: If a file is damaged or no longer there, and may not be skipped.
        """
        if self._labels_only:
            return torch.empty(0), self.labels(step)
        images, targets = self._targets.of(*self._batches.read(step), step)
        return images[self._kept].contiguous(memory_format=self._format), targets[self._kept]

    def labels(self, step: int) -> Tensor:
        """The labels of `batch` alone. Files are read only if damaged ones are replaced by other images.

        Raises:
            DataError: If none can be read.
        """
        return self._targets.of_labels(self._batches.labels(step), step, self._size)[self._kept]

    @property
    def waited_s(self) -> float:
        """Time that the training has waited for files, so far."""
        return self._batches.waited_s

    @property
    def skipped(self) -> tuple[str, ...]:
        """Damaged files that were replaced by other images, so far."""
        return self._batches.skipped

    def close(self) -> None:
        """Ends the workers."""
        self._batches.close()


def eval_batches(
    split: Split, batch_size: int, device: torch.device | str, channels_last: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in order, unchanged, as `TrainLoader.batch` gives them; the last batch may be smaller.

    Files are read ahead by as many workers as training has.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be positive")

    def read(start: int) -> Tensor:
        return torch.from_numpy(split.images[start : start + batch_size])

    scale = torch.tensor(255.0, device=device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    workers = split.images.workers if isinstance(split.images, FileImages) else 0
    starts = range(0, len(split), batch_size)
    for start, pixels in zip(tracked(starts, "running the network"), read_ahead(read, starts, workers), strict=True):
        labels = torch.from_numpy(split.labels[start : start + batch_size]).to(device)
        yield pixels.to(device).float().div_(scale).contiguous(memory_format=memory_format), labels
