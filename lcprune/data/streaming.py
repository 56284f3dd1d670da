"""Training batches of images that are changed one by one, made ahead of time by worker processes.

As with `TrainLoader`, a batch is a function of the seed and the step alone, whoever makes it.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lcprune.data.images import centre
from lcprune.data.sampling import (
    TRANSFORM,
    Targets,
    crop_draws,
    epoch_order,
    first_mirrored,
    global_generator,
    rows_made_and_kept,
)
from lcprune.data.sources import Split
from lcprune.data.stream import FileImages
from lcprune.data.transforms import random_transform
from lcprune.data.workers import read_ahead
from lcprune.errors import DataError

_IMAGES = 1 << 20  # more than a batch can have: keeps the draws of images of different steps apart

Made = tuple[Tensor, Tensor, tuple[int, ...]]
"""Pixels ``(B, C, H, W)`` uint8, labels ``(B,)``, and indices of images that another one stands in for."""


@dataclass(frozen=True)
class Streaming:
    """How batches are made."""

    batch_size: int
    augment: Literal["none", "crop", "crop_flip", "resized_crop", "randaugment"]
    seed: int
    pad: int = 4
    flip: Literal["random", "alternating"] = "random"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    workers: int = 0
    """Processes; 0: batches are made when they are asked for."""


class StreamLoader:
    """Shuffled, augmented training batches, one for each step; see `TrainLoader`, which is for images in memory.

    Args:
        split: The training images, in files or in memory.
        streaming: How batches are made.
        targets: What a batch is to learn.
        device: Where batches go.
        channels_last: Whether batches have that memory format.
        weights: How often each image is drawn, ``(N,)``; None: once in an epoch.
        rows: Which rows of every batch are made; see `TrainLoader`.

    Raises:
        DataError: If there are fewer images than `batch_size`.
        SetupError: If there are to be workers and the system cannot fork.
    """

    def __init__(
        self,
        split: Split,
        streaming: Streaming,
        targets: Targets,
        device: torch.device | str,
        channels_last: bool = False,
        weights: Tensor | None = None,
        rows: slice | None = None,
    ) -> None:
        if streaming.batch_size > len(split):
            raise DataError(
                f"data.batch_size is {streaming.batch_size}, but there are only {len(split)} training images",
                f"set data.batch_size to {len(split)} or less",
            )
        self.batch_size = streaming.batch_size
        self.steps_per_epoch = len(split) // streaming.batch_size
        self.waited_s = 0.0
        """Time in which whoever asks for batches has waited for them."""
        made, self._kept = rows_made_and_kept(rows, targets)
        self._batches = _Batches(split, streaming, weights, made)
        self._images = split.images
        self._workers = streaming.workers
        self._targets = targets
        self._device = torch.device(device)
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._queue: Iterator[Made] | None = None
        self._next_step = -1
        self._damaged: set[int] = set()

    @property
    def skipped(self) -> tuple[str, ...]:
        """Damaged files that another image stood in for, so far."""
        images = self._images
        return tuple(images.path(index) for index in sorted(self._damaged)) if isinstance(images, FileImages) else ()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)``, float32 in 0..1, and labels of a step, from 0; see `Targets.of`.

        Raises:
            DataError: If a file is damaged or no longer there, and may not be skipped.
        """
        if step < 0:
            raise ValueError(f"step {step} is negative")
        started = time.perf_counter()
        pixels, labels, damaged = self._made(step)
        self._damaged.update(damaged)
        waits = self._device.type != "cuda"  # pinned memory is copied while the CPU goes on
        images = pixels.to(self._device, non_blocking=not waits).float().div_(255)
        labels = labels.to(self._device, non_blocking=not waits)
        self.waited_s += time.perf_counter() - started
        images, learnt = self._targets.of(images, labels, step)
        return images[self._kept].contiguous(memory_format=self._format), learnt[self._kept]

    def labels(self, step: int) -> Tensor:
        """The labels of `batch` alone. Files are read only where another image may stand in for a damaged one.

        Raises:
            DataError: If none can be read.
        """
        labels = self._batches.labels(step).to(self._device)
        height, width = self._images.shape[2:]
        return self._targets.of_labels(labels, step, (height, width))[self._kept]

    def close(self) -> None:
        """Ends the workers."""
        self._queue = None
        self._next_step = -1

    def _made(self, step: int) -> Made:
        if not self._workers:
            return self._opened(self._batches[step])
        if self._queue is None or step != self._next_step:
            self._queue = self._start(step)
        self._next_step = step + 1
        return self._opened(next(self._queue))

    def _opened(self, made: Made | DataError) -> Made:
        if isinstance(made, DataError):
            self.close()
            raise made
        return made

    def _start(self, step: int) -> Iterator[Any]:
        return read_ahead(self._batches, _From(step), self._workers, pin_memory=self._device.type == "cuda")


class _From:
    """All steps from one on."""

    def __init__(self, step: int) -> None:
        self._step = step

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._step)


class _Batches(Dataset[Made | DataError]):
    """The batch of every step. An error of the data is given, not raised: a DataLoader would rewrite it."""

    def __init__(self, split: Split, streaming: Streaming, weights: Tensor | None, rows: slice) -> None:
        self._split = split
        self._rows = rows
        self._streaming = streaming
        self._weights = weights
        self._order: tuple[int, NDArray[np.int64]] | None = None
        size = split.images.shape[-1]
        kind = streaming.augment
        self._changed = (
            random_transform(kind, size, streaming.interpolation) if kind in ("resized_crop", "randaugment") else None
        )
        self._margin = streaming.pad if kind in ("crop", "crop_flip") else 0
        self._first_mirrored = first_mirrored(len(split), streaming.seed)

    def __getitem__(self, step: int) -> Made | DataError:
        try:
            return self._made(step)
        except DataError as error:
            return error

    def labels(self, step: int) -> Tensor:
        """Of the images that are made at a step."""
        indices, images = self._indices(step), self._split.images
        if isinstance(images, FileImages) and images.skips:
            indices = np.array([images.read(int(index))[0] for index in indices], dtype=np.int64)
        return torch.from_numpy(self._split.labels[indices])

    def _indices(self, step: int) -> NDArray[np.int64]:
        """The images of a step, those that are made."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        size = self._streaming.batch_size
        epoch, position = divmod(step, len(self._split) // size)
        return self._epoch(epoch)[position * size : (position + 1) * size][self._rows]

    def _made(self, step: int) -> Made:
        indices, epoch = self._indices(step), step // (len(self._split) // self._streaming.batch_size)
        read = [self._read(int(index)) for index in indices]
        labels = self._split.labels[[index for index, _ in read]]
        damaged = tuple(int(asked) for asked, (index, _) in zip(indices, read, strict=True) if asked != index)
        whole = [pixels for _, pixels in read]
        pixels = self._transformed(whole, step) if self._changed else self._cropped(whole, indices, step, epoch)
        return pixels, torch.from_numpy(labels), damaged

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            order = epoch_order(len(self._split), self._streaming.seed, epoch, self._weights)
            self._order = epoch, order.numpy()
        return self._order[1]

    def _read(self, index: int) -> tuple[int, NDArray[np.uint8]]:
        images = self._split.images
        return images.read(index) if isinstance(images, FileImages) else (index, images[index])

    def _transformed(self, whole: list[NDArray[np.uint8]], step: int) -> Tensor:
        if self._changed is None:
            raise ValueError("there is no transform")
        made = []
        numbers = range(self._streaming.batch_size)[self._rows]
        for number, pixels in zip(numbers, whole, strict=True):
            with global_generator(self._streaming.seed, TRANSFORM, step * _IMAGES + number):
                made.append(self._changed(torch.tensor(pixels)))  # a copy: what a cache gives cannot be written to
        return torch.stack(made)

    def _cropped(self, whole: list[NDArray[np.uint8]], indices: NDArray[np.int64], step: int, epoch: int) -> Tensor:
        """As `TrainLoader` makes them, bit for bit."""
        streaming, margin, side = self._streaming, self._margin, self._split.images.shape[-1]
        drawn = crop_draws(streaming.batch_size, margin, streaming.seed, step)
        tops, lefts, mirrored = (of_batch[self._rows] for of_batch in drawn)
        if streaming.flip == "alternating":
            mirrored = (self._first_mirrored[torch.from_numpy(indices)] + epoch) % 2
        made = np.empty((len(whole), *self._split.images.shape[1:]), dtype=np.uint8)
        for row, pixels in enumerate(whole):
            padded = np.pad(centre(pixels, side), ((0, 0), (margin, margin), (margin, margin)))
            top, left = int(tops[row]), int(lefts[row])
            crop = padded[:, top : top + side, left : left + side]
            turned = streaming.augment == "crop_flip" and bool(mirrored[row])
            made[row] = crop[..., ::-1] if turned else crop
        return torch.from_numpy(made)
