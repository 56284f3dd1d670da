"""Training batches of images that are augmented one by one, made ahead of time by worker processes.

As with `TrainLoader`, a batch is a function of the seed and the step alone, whichever process makes it.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lcprune.data.file_images import FileImages, Pixels
from lcprune.data.images import center_crop
from lcprune.data.sampling import TRANSFORM, BatchSampler, Targets, global_generator, rows_made_and_kept
from lcprune.data.sources import Split
from lcprune.data.transforms import Transform, random_transform
from lcprune.data.workers import read_ahead
from lcprune.errors import LcpruneError

_IMAGES = 1 << 20  # more than a batch can have: separates the random numbers of images of different steps

Made = tuple[Tensor, Tensor, tuple[int, ...]]
"""Pixels ``(B, C, H, W)`` uint8, labels ``(B,)``, and indices of damaged images that were replaced by others."""
Augment = Callable[[Sequence[Pixels], int], Tensor]
"""Augments the images ``(C, H, W)`` of a step, to ``(B, C, H, W)``."""


class StreamLoader:
    """Shuffled, augmented training batches of images in files or in memory; `TrainLoader` is faster for the latter.

    Args:
        split: The training images.
        batch_size: See `TrainLoader`, as for the arguments up to `rows`.
        augment: Likewise; ``resized_crop`` and ``randaugment`` are described in `random_transform`.
        pad: Likewise, for ``crop`` and ``crop_flip``.
        seed: Likewise.
        device: Receives the batches.
        channels_last: Whether batches have that memory format.
        flip: See `TrainLoader`.
        targets: Likewise.
        weights: Likewise.
        rows: Likewise.
        interpolation: How ``resized_crop`` and ``randaugment`` resize.
        workers: Processes; 0: batches are made when they are asked for.

    Raises:
        DataError: If there are fewer images than `batch_size`.
        SetupError: If there are to be workers and the system cannot fork.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        augment: Literal["none", "crop", "crop_flip", "resized_crop", "randaugment"],
        pad: int,
        seed: int,
        device: torch.device | str,
        channels_last: bool = False,
        flip: Literal["random", "alternating"] = "random",
        targets: Targets | None = None,
        weights: Tensor | None = None,
        rows: slice | None = None,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
        workers: int = 0,
    ) -> None:
        self._targets = targets or Targets(classes=0, seed=seed)
        made, self._kept = rows_made_and_kept(rows, self._targets)
        margin = pad if augment in ("crop", "crop_flip") else 0
        sampler = BatchSampler(len(split), batch_size, seed, margin, flip, weights, made, torch.device("cpu"))
        self.steps_per_epoch = sampler.steps_per_epoch
        self.waited_s = 0.0
        if augment in ("resized_crop", "randaugment"):
            transform = random_transform(augment, split.images.shape[-1], interpolation)
            apply = _transforms(transform, seed, range(batch_size)[made])
        else:
            apply = _crops(sampler, split.images.shape[-1], margin, augment == "crop_flip")
        self._batches = _Batches(split, sampler, apply)
        self._images = split.images
        self._workers = workers
        self._device = torch.device(device)
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._queue: Iterator[Made] | None = None
        self._next_step = -1
        self._damaged: set[int] = set()

    @property
    def skipped(self) -> tuple[str, ...]:
        """Damaged files that were replaced by other images, so far."""
        images = self._images
        return tuple(images.path(index) for index in sorted(self._damaged)) if isinstance(images, FileImages) else ()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)``, float32 in 0..1, and labels of a step, from 0; see `Targets.of`.

        Raises:
            DataError: If a file is damaged or no longer there, and may not be skipped.
        """
        started = time.perf_counter()
        pixels, labels, damaged = self._made(step)
        self._damaged.update(damaged)
        on_cuda = self._device.type == "cuda"  # pinned memory is copied while the CPU goes on
        images = pixels.to(self._device, non_blocking=on_cuda).float().div_(255)
        labels = labels.to(self._device, non_blocking=on_cuda)
        self.waited_s += time.perf_counter() - started
        images, targets = self._targets.of(images, labels, step)
        return images[self._kept].contiguous(memory_format=self._format), targets[self._kept]

    def labels(self, step: int) -> Tensor:
        """The labels of `batch` alone. Files are read only if damaged ones are replaced by other images.

        Raises:
            DataError: If none can be read.
        """
        labels = self._batches.labels(step).to(self._device)
        height, width = self._images.shape[2:]
        return self._targets.of_labels(labels, step, (height, width))[self._kept]

    def close(self) -> None:
        """Ends the workers."""
        self._queue = None

    def _made(self, step: int) -> Made:
        if self._queue is None or step != self._next_step:
            self.close()  # before other workers start
            pin_memory = self._device.type == "cuda"
            self._queue = read_ahead(self._batches.make, itertools.count(step), self._workers, pin_memory)
        self._next_step = step + 1
        try:
            return next(self._queue)
        except LcpruneError:
            self.close()
            raise


class _Batches:
    """Makes the batch of every step, in the training process or in a worker."""

    def __init__(self, split: Split, sampler: BatchSampler, augment: Augment) -> None:
        self._split = split
        self._sampler = sampler
        self._augment = augment

    def make(self, step: int) -> Made:
        indices = self._sampler.indices(step).tolist()
        read = [self._read(index) for index in indices]
        labels = self._split.labels[[index for index, _ in read]]
        damaged = tuple(asked for asked, (index, _) in zip(indices, read, strict=True) if asked != index)
        return self._augment([pixels for _, pixels in read], step), torch.from_numpy(labels), damaged

    def labels(self, step: int) -> Tensor:
        """Of the images of a step, without the images."""
        indices, images = self._sampler.indices(step).tolist(), self._split.images
        if isinstance(images, FileImages) and images.skips:
            indices = [images.read(index)[0] for index in indices]
        return torch.from_numpy(self._split.labels[indices])

    def _read(self, index: int) -> tuple[int, Pixels]:
        images = self._split.images
        return images.read(index) if isinstance(images, FileImages) else (index, images[index])


def _transforms(transform: Transform, seed: int, rows: Sequence[int]) -> Augment:
    """Augments the images of a step, which are these rows of its batch, each with random numbers of its own."""

    def augment(images: Sequence[Pixels], step: int) -> Tensor:
        made = []
        for row, pixels in zip(rows, images, strict=True):
            with global_generator(seed, TRANSFORM, step * _IMAGES + row):
                made.append(transform(torch.tensor(pixels)))  # a copy: what a cache gives cannot be written to
        return torch.stack(made)

    return augment


def _crops(sampler: BatchSampler, side: int, margin: int, flips: bool) -> Augment:
    """Crops the images of a step, bit-identical to `TrainLoader`."""

    def augment(images: Sequence[Pixels], step: int) -> Tensor:
        made = []
        draws = (draw.tolist() for draw in sampler.crops(step))
        for pixels, top, left, mirrored in zip(images, *draws, strict=True):
            padded = np.pad(center_crop(pixels, side), ((0, 0), (margin, margin), (margin, margin)))
            crop = padded[:, top : top + side, left : left + side]
            made.append(crop[..., ::-1] if flips and mirrored else crop)
        return torch.from_numpy(np.stack(made))

    return augment
