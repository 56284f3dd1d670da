"""Batches for torch, made on the device that holds the images.

A training batch is a function of the seed and the step alone, so that a run that was stopped goes on exactly where it
was, without the state of any random generator in its checkpoints.
"""

from collections.abc import Iterator
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lcprune.data.sampling import Targets, crop_draws, epoch_order, first_mirrored, rows_made_and_kept
from lcprune.data.sources import Split
from lcprune.data.stream import FileImages
from lcprune.data.workers import read_ahead
from lcprune.errors import DataError


class Loader(Protocol):
    """Training batches, one for each step."""

    waited_s: float
    """Time in which whoever asks for batches has waited for files, so far."""

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the images."""
        ...

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)``, float32 in 0..1, and labels of a step, counted from 0 over all epochs."""
        ...

    def labels(self, step: int) -> Tensor:
        """The labels of `batch` alone."""
        ...


class TrainLoader:
    """Shuffled, augmented training batches, one for each step.

    Args:
        split: The training images; they are copied to `device` as uint8, padded.
        batch_size: Images in a batch. What is left over at the end of an epoch is dropped.
        augment: ``crop`` cuts each image at a place of its own out of the padded one; ``crop_flip`` mirrors half of
            them besides.
        pad: Black pixels around an image before it is cropped; without meaning for ``none``.
        seed: Decides the order and every crop and flip.
        device: Holds the images and makes the batches.
        channels_last: Whether batches have that memory format.
        flip: ``random`` draws at every step which images ``crop_flip`` mirrors; ``alternating`` draws it once for the
            first epoch, and what an epoch mirrors the next one does not. Without meaning for the other augmentations.
        targets: What a batch is to learn, and the mixing of its images; None: its labels.
        weights: How often each image is drawn, ``(N,)``; None: once in an epoch.
        rows: Which rows of every batch are made, bit for bit those of the whole batch; None: all. Images that are
            mixed with each other need the whole batch: then it is made, and the rows are taken from it.

    Raises:
        DataError: If there are fewer images than `batch_size`.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        augment: Literal["none", "crop", "crop_flip"],
        pad: int,
        seed: int,
        device: torch.device | str,
        channels_last: bool = False,
        flip: Literal["random", "alternating"] = "random",
        targets: Targets | None = None,
        weights: Tensor | None = None,
        rows: slice | None = None,
    ) -> None:
        if batch_size < 1 or pad < 0:
            raise ValueError(f"batch_size {batch_size} must be positive and pad {pad} not negative")
        if batch_size > len(split):
            raise DataError(
                f"data.batch_size is {batch_size}, but there are only {len(split)} training images",
                f"set data.batch_size to {len(split)} or less",
            )
        self.batch_size = batch_size
        self.waited_s = 0.0
        self._seed = seed
        self._device = torch.device(device)
        self._margin = 0 if augment == "none" else pad
        self._mirrors = flip if augment == "crop_flip" else None
        self._labels = torch.from_numpy(split.labels).to(self._device)
        self._crops = _Crops(torch.from_numpy(split.images).to(self._device), self._margin, channels_last)
        self._scale = torch.tensor(255.0, device=self._device)
        self._shuffled: tuple[int, Tensor] | None = None
        self._first_mirrored = first_mirrored(len(split), seed).to(self._device)
        self._size: tuple[int, int] = split.images.shape[2:]
        self._targets = targets or Targets(classes=0, seed=seed)
        self._weights = weights
        self._made, self._kept = rows_made_and_kept(rows, self._targets)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the images."""
        return len(self._labels) // self.batch_size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)``, float32 in 0..1, and labels ``(B,)`` of a step, counted from 0 over all epochs.

        With `targets` the labels are what `Targets.of` gives; with `rows` only these, ``(B', C, H, W)`` and ``(B',)``.
        """
        indices = self._indices(step)
        tops, lefts, drawn = self._draws(step)
        if self._mirrors == "alternating":
            drawn = (self._first_mirrored[indices] + step // self.steps_per_epoch) % 2
        pixels = self._crops.take(indices, tops, lefts, drawn if self._mirrors else None)
        images, labels = self._targets.of(pixels.float().div_(self._scale), self._labels[indices], step)
        return images[self._kept], labels[self._kept]

    def labels(self, step: int) -> Tensor:
        """The labels of `batch` alone; no image is made."""
        return self._targets.of_labels(self._labels[self._indices(step)], step, self._size)[self._kept]

    def _indices(self, step: int) -> Tensor:
        """The images of a step, those that are made."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size][self._made]

    def _order(self, epoch: int) -> Tensor:
        """Order of the images in an epoch, ``(N,)``; the last one asked for is kept."""
        if self._shuffled is None or self._shuffled[0] != epoch:
            order = epoch_order(len(self._labels), self._seed, epoch, self._weights)
            self._shuffled = epoch, order.to(self._device)
        return self._shuffled[1]

    def _draws(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """See `crop_draws`; on the device, of those images that are made."""
        drawn = torch.stack(crop_draws(self.batch_size, self._margin, self._seed, step))[:, self._made]
        tops, lefts, mirrored = drawn.to(
            self._device, non_blocking=self._device.type == "cuda"
        )  # else it is waited for
        return tops, lefts, mirrored


class LabelLoader:
    """The labels of another loader's batches, without the images: for layers that read no images.

    `waited_s` and `steps_per_epoch` are as in `Loader`.
    """

    def __init__(self, loader: Loader) -> None:
        """`loader` is asked for labels alone."""
        self.waited_s = 0.0
        self.steps_per_epoch = loader.steps_per_epoch
        self._loader = loader

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """No images, and the labels of a step."""
        return torch.empty(0), self._loader.labels(step)

    def labels(self, step: int) -> Tensor:
        """The labels of a step."""
        return self._loader.labels(step)


def eval_batches(
    split: Split, batch_size: int, device: torch.device | str, channels_last: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in order, as `TrainLoader.batch` gives them, but as they are; the last batch may be smaller."""
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be positive")
    scale = torch.tensor(255.0, device=device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for start, pixels in zip(range(0, len(split), batch_size), _chunks(split, batch_size), strict=True):
        labels = torch.from_numpy(split.labels[start : start + batch_size]).to(device)
        yield pixels.to(device).float().div_(scale).contiguous(memory_format=memory_format), labels


def _chunks(split: Split, batch_size: int) -> Iterator[Tensor]:
    """The pixels of each batch; those in files are read ahead by as many workers as training has."""
    chunks = _Chunks(split.images, batch_size)
    workers = split.images.workers if isinstance(split.images, FileImages) else 0
    read: Any = (chunks[number] for number in range(len(chunks)))
    if workers:
        read = read_ahead(chunks, range(len(chunks)), workers)
    for pixels in read:
        if isinstance(pixels, DataError):
            raise pixels
        yield pixels


class _Chunks(Dataset[Tensor | DataError]):
    """Neighbouring images, so many at a time. An error of the data is given: a DataLoader would rewrite it."""

    def __init__(self, images: NDArray[np.uint8], size: int) -> None:
        self._images = images
        self._size = size

    def __len__(self) -> int:
        return -(-len(self._images) // self._size)

    def __getitem__(self, number: int) -> Tensor | DataError:
        try:
            return torch.from_numpy(self._images[number * self._size : (number + 1) * self._size])
        except DataError as error:
            return error


class _Crops:
    """Padded images that are cropped by the batch; they lie in memory in the order that batches have.

    On a CPU the crops are windows: a strided view that has one entry for every byte at which a crop could begin, from
    which `index_select` copies whole rows. That is several times faster than an index for each pixel, which other
    devices get: there it costs nothing, and MPS would write the whole view out.
    """

    def __init__(self, images: Tensor, pad: int, channels_last: bool) -> None:
        _, channels, height, width = images.shape
        padded = F.pad(images, (pad, pad, pad, pad)) if pad else images
        stored = (padded.permute(0, 2, 3, 1) if channels_last else padded).contiguous()
        self._flat = stored.view(-1)
        self._to_nchw = (0, 3, 1, 2) if channels_last else (0, 1, 2, 3)
        self._strides = stored.permute(self._to_nchw).stride()
        self._crop_shape = (height, width, channels) if channels_last else (channels, height, width)
        self._crop_strides = stored.stride()[1:]
        self._width_dim = 1 if channels_last else 2  # of a crop

    def take(self, indices: Tensor, tops: Tensor, lefts: Tensor, mirrored: Tensor | None) -> Tensor:
        """Crops of the images at `indices`, ``(B, C, H, W)``: those whose `mirrored` is 1 are mirrored; None: none."""
        image, _, row, column = self._strides
        starts = indices * image + tops * row + lefts * column
        take = self._take_windows if self._flat.device.type == "cpu" else self._take_pixels
        return take(starts, mirrored).permute(self._to_nchw)

    def _take_windows(self, starts: Tensor, mirrored: Tensor | None) -> Tensor:
        last = sum((size - 1) * stride for size, stride in zip(self._crop_shape, self._crop_strides, strict=True))
        windows = self._flat.as_strided((len(self._flat) - last, *self._crop_shape), (1, *self._crop_strides))
        crops = windows.index_select(0, starts)
        if mirrored is None:
            return crops
        both = torch.cat([crops, crops.flip(self._width_dim + 1)])  # torch.where takes longer than all of this
        return both.index_select(0, torch.arange(len(crops)) + len(crops) * mirrored)

    def _take_pixels(self, starts: Tensor, mirrored: Tensor | None) -> Tensor:
        axes = [
            torch.arange(size, device=starts.device) * stride
            for size, stride in zip(self._crop_shape, self._crop_strides, strict=True)
        ]
        offsets = axes[0][:, None, None] + axes[1][:, None] + axes[2]  # of every pixel from a crop's first one
        if mirrored is not None:
            offsets = torch.stack([offsets, offsets.flip(self._width_dim)])[mirrored]
        return self._flat[starts[:, None, None, None] + offsets]
