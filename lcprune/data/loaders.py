"""Batches for torch, made on the device that holds the images.

A training batch is a function of the seed and the step alone, so that a run that was stopped goes on exactly where it
was, without the state of any random generator in its checkpoints.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lcprune.data.sources import Split
from lcprune.errors import DataError

_ORDER, _AUGMENT, _FLIP = 0, 1, 2  # streams of random numbers that start from the same seed


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
    ) -> None:
        if batch_size < 1 or pad < 0:
            raise ValueError(f"batch_size {batch_size} must be positive and pad {pad} not negative")
        if batch_size > len(split):
            raise DataError(
                f"data.batch_size is {batch_size}, but there are only {len(split)} training images",
                f"set data.batch_size to {len(split)} or less",
            )
        self.batch_size = batch_size
        self._seed = seed
        self._device = torch.device(device)
        self._margin = 0 if augment == "none" else pad
        self._mirrors = flip if augment == "crop_flip" else None
        self._labels = torch.from_numpy(split.labels).to(self._device)
        self._crops = _Crops(torch.from_numpy(split.images).to(self._device), self._margin, channels_last)
        self._scale = torch.tensor(255.0, device=self._device)
        self._shuffled: tuple[int, Tensor] | None = None
        first = torch.randint(2, (len(split),), generator=_generator(seed, _FLIP, 0))
        self._first_mirrored = first.to(self._device)  # in the first epoch, of every image

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the images."""
        return len(self._labels) // self.batch_size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)``, float32 in 0..1, and labels ``(B,)`` of a step, counted from 0 over all epochs."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        epoch, position = divmod(step, self.steps_per_epoch)
        indices = self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        tops, lefts, drawn = self._draws(step)
        if self._mirrors == "alternating":
            drawn = (self._first_mirrored[indices] + epoch) % 2
        pixels = self._crops.take(indices, tops, lefts, drawn if self._mirrors else None)
        return pixels.float().div_(self._scale), self._labels[indices]

    def _order(self, epoch: int) -> Tensor:
        """Order of the images in an epoch, ``(N,)``; the last one asked for is kept."""
        if self._shuffled is None or self._shuffled[0] != epoch:
            order = torch.randperm(len(self._labels), generator=_generator(self._seed, _ORDER, epoch))
            self._shuffled = epoch, order.to(self._device)
        return self._shuffled[1]

    def _draws(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Corner of every crop (row, column) and whether it is mirrored, ``(B,)`` each.

        One number per image says all three; it is drawn on the CPU, so that every device sees the same images.
        """
        places = 2 * self._margin + 1
        generator = _generator(self._seed, _AUGMENT, step)
        drawn = torch.randint(2 * places * places, (self.batch_size,), generator=generator)
        drawn = drawn.to(self._device, non_blocking=self._device.type == "cuda")  # else CUDA would be waited for
        corner = drawn // 2
        return corner // places, corner % places, drawn % 2


def eval_batches(
    split: Split, batch_size: int, device: torch.device | str, channels_last: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in order, as `TrainLoader.batch` gives them, but as they are; the last batch may be smaller."""
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be positive")
    scale = torch.tensor(255.0, device=device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for start in range(0, len(split), batch_size):
        pixels = torch.from_numpy(split.images[start : start + batch_size]).to(device)
        labels = torch.from_numpy(split.labels[start : start + batch_size]).to(device)
        yield pixels.float().div_(scale).contiguous(memory_format=memory_format), labels


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


def _generator(seed: int, stream: int, counter: int) -> torch.Generator:
    """A CPU generator for one purpose at one time; mixed, because neighbouring seeds and steps must not be alike."""
    state = np.random.SeedSequence([seed, stream, counter]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
