"""Batches of images in memory, made on the device that holds them.

A training batch is a function of the seed and the step alone, so that an interrupted run continues exactly, without the
state of any random generator in its checkpoints.
"""

from collections.abc import Iterator
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lcprune.data.file_images import FileImages
from lcprune.data.sampling import BatchSampler, Targets, rows_made_and_kept
from lcprune.data.sources import Split
from lcprune.data.workers import read_ahead


class Loader(Protocol):
    """Training batches, one for each step."""

    waited_s: float
    """Time that the training has waited for files, so far."""

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
        batch_size: Images in a batch. An incomplete last batch of an epoch is dropped.
        augment: ``crop`` takes a random crop of each padded image; ``crop_flip`` also mirrors half of them.
        pad: Black pixels around an image before it is cropped; ignored for ``none``.
        seed: Decides the order and every crop and flip.
        device: Holds the images and makes the batches.
        channels_last: Whether batches have that memory format.
        flip: See `BatchSampler`; ignored unless `augment` is ``crop_flip``.
        targets: Targets of a batch, and the mixing of its images; None: its labels.
        weights: How often each image is drawn, ``(N,)``; None: once in an epoch.
        rows: Which rows of every batch are made, bit-identical to those of the whole batch; None: all. If images are
            mixed, the whole batch is made, and the rows are taken from it.

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
        device = torch.device(device)
        margin = 0 if augment == "none" else pad
        self._targets = targets or Targets(classes=0, seed=seed)
        made, self._kept = rows_made_and_kept(rows, self._targets)
        self._sampler = BatchSampler(len(split), batch_size, seed, margin, flip, weights, made, device)
        self.steps_per_epoch = self._sampler.steps_per_epoch
        self.waited_s = 0.0
        self._flips = augment == "crop_flip"
        self._labels = torch.from_numpy(split.labels).to(device)
        self._crops = _Crops(torch.from_numpy(split.images).to(device), margin, channels_last)
        self._scale = torch.tensor(255.0, device=device)
        self._size: tuple[int, int] = split.images.shape[2:]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)``, float32 in 0..1, and labels ``(B,)`` of a step, counted from 0 over all epochs.

        With `targets` the labels are what `Targets.of` gives; with `rows` only these, ``(B', C, H, W)`` and ``(B',)``.
        """
        indices = self._sampler.indices(step)
        tops, lefts, mirrored = self._sampler.crops(step)
        pixels = self._crops.take(indices, tops, lefts, mirrored if self._flips else None)
        images, labels = self._targets.of(pixels.float().div_(self._scale), self._labels[indices], step)
        return images[self._kept], labels[self._kept]

    def labels(self, step: int) -> Tensor:
        """The labels of `batch` alone; no image is made."""
        labels = self._labels[self._sampler.indices(step)]
        return self._targets.of_labels(labels, step, self._size)[self._kept]


class LabelLoader:
    """The labels of another loader's batches, without the images: for processes that have no first layers."""

    def __init__(self, loader: Loader) -> None:
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
    for start, pixels in zip(starts, read_ahead(read, starts, workers), strict=True):
        labels = torch.from_numpy(split.labels[start : start + batch_size]).to(device)
        yield pixels.to(device).float().div_(scale).contiguous(memory_format=memory_format), labels


class _Crops:
    """Padded images, in the memory format of batches, and their crops.

    On a CPU the crops are windows: a strided view that has one entry for every byte at which a crop could begin, from
    which `index_select` copies whole rows. That is several times faster than an index for each pixel. Other devices use
    the index: there it costs nothing, and MPS would materialize the whole view.
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
