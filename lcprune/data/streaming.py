"""Training batches of images that are read and augmented one by one, ahead of time by worker processes."""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lcprune.data.file_images import FileImages, Pixels
from lcprune.data.in_memory import Crops
from lcprune.data.sampling import TRANSFORM, BatchSampler, global_generator
from lcprune.data.sources import Split
from lcprune.data.transforms import Transform, random_transform
from lcprune.data.workers import read_ahead
from lcprune.errors import LcpruneError
from lcprune_runtime.images import center_crop

_IMAGES = 1 << 20  # more than a batch can have: separates the random numbers of images of different steps

Made = tuple[Tensor, Tensor, tuple[int, ...]]
"""Pixels ``(B, C, H, W)`` uint8, labels ``(B,)``, and indices of damaged images that were replaced by others."""


class StreamedBatches:
    """Batches that workers make ahead of time, and the transfer to the device.

    Args:
        split: The training images, in files or in memory.
        sampler: Says which images a step has, and how they are cropped.
        augment: See `TrainLoader`.
        interpolation: Likewise.
        crop_scale: Likewise.
        device: Receives the batches.
        workers: Processes; 0: batches are made when they are asked for.
    """

    def __init__(
        self,
        split: Split,
        sampler: BatchSampler,
        augment: Literal["none", "crop", "crop_flip", "resized_crop", "randaugment"],
        interpolation: Literal["bilinear", "bicubic"],
        crop_scale: tuple[float, float],
        device: torch.device,
        workers: int,
    ) -> None:
        self.waited_s = 0.0
        transform = None
        if augment in ("resized_crop", "randaugment"):
            transform = random_transform(augment, split.images.shape[-1], interpolation, crop_scale)
        self._maker = _Maker(split, sampler, transform, flips=augment == "crop_flip")
        self._images = split.images
        self._device = device
        self._workers = workers
        self._queue: Iterator[Made] | None = None
        self._next_step = -1
        self._damaged: set[int] = set()

    @property
    def skipped(self) -> tuple[str, ...]:
        """See `TrainLoader`."""
        images = self._images
        return tuple(images.path(index) for index in sorted(self._damaged)) if isinstance(images, FileImages) else ()

    def read(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)``, float32 in 0..1, and labels ``(B,)`` of a step, on the device.

        Raises:
            DataError: If a file is damaged or no longer there, and may not be skipped.
            SetupError: If there are to be workers and the system cannot fork.
        """
        started = time.perf_counter()
        pixels, labels, damaged = self._made(step)
        self._damaged.update(damaged)
        on_cuda = self._device.type == "cuda"  # pinned memory is copied while the CPU goes on
        images = pixels.to(self._device, non_blocking=on_cuda).float().div_(255)
        labels = labels.to(self._device, non_blocking=on_cuda)
        self.waited_s += time.perf_counter() - started
        return images, labels

    def labels(self, step: int) -> Tensor:
        """The labels of `read` alone.

        Raises:
            DataError: If no image can be read.
        """
        return self._maker.labels(step).to(self._device)

    def close(self) -> None:
        """Ends the workers."""
        self._queue = None

    def _made(self, step: int) -> Made:
        if self._queue is None or step != self._next_step:
            self.close()  # before other workers start
            pin_memory = self._device.type == "cuda"
            self._queue = read_ahead(self._maker.make, itertools.count(step), self._workers, pin_memory)
        self._next_step = step + 1
        try:
            return next(self._queue)
        except LcpruneError:
            self.close()
            raise


class _Maker:
    """Makes the batch of every step, in the training process or in a worker; without `transform` by crops."""

    def __init__(self, split: Split, sampler: BatchSampler, transform: Transform | None, flips: bool) -> None:
        self._split = split
        self._sampler = sampler
        self._transform = transform
        self._flips = flips

    def make(self, step: int) -> Made:
        indices = self._sampler.indices(step).tolist()
        read = [self._read(index) for index in indices]
        labels = self._split.labels[[index for index, _ in read]]
        damaged = tuple(asked for asked, (index, _) in zip(indices, read, strict=True) if asked != index)
        images = [pixels for _, pixels in read]
        transform = self._transform
        augmented = self._crops(images, step) if transform is None else self._transformed(images, step, transform)
        return augmented, torch.from_numpy(labels), damaged

    def labels(self, step: int) -> Tensor:
        """Of the images of a step, without the images."""
        indices, images = self._sampler.indices(step).tolist(), self._split.images
        if isinstance(images, FileImages) and images.skips:
            indices = [images.read(index)[0] for index in indices]
        return torch.from_numpy(self._split.labels[indices])

    def _read(self, index: int) -> tuple[int, Pixels]:
        images = self._split.images
        return images.read(index) if isinstance(images, FileImages) else (index, images[index])

    def _crops(self, images: Sequence[Pixels], step: int) -> Tensor:
        """As `InMemoryBatches` makes them."""
        side = self._split.images.shape[-1]
        centers = torch.from_numpy(np.stack([center_crop(pixels, side) for pixels in images]))
        tops, lefts, mirrored = self._sampler.crops(step)
        crops = Crops(centers, self._sampler.margin, channels_last=False)
        return crops.take(torch.arange(len(images)), tops, lefts, mirrored if self._flips else None)

    def _transformed(self, images: Sequence[Pixels], step: int, transform: Transform) -> Tensor:
        """Each image is transformed with random numbers of its own."""
        made = []
        rows = range(self._sampler.batch_size)[self._sampler.rows]
        for row, pixels in zip(rows, images, strict=True):
            with global_generator(self._sampler.seed, TRANSFORM, step * _IMAGES + row):
                made.append(transform(torch.tensor(pixels)))  # a copy: what a cache gives cannot be written to
        return torch.stack(made)
