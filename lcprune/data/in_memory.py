"""Training batches of images in the memory of the device that makes them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lcprune.data.sampling import BatchSampler
from lcprune.data.sources import Split


class InMemoryBatches:
    """Crops and flips the images of every step at once.

    Args:
        split: The training images; they are copied to `device` as uint8, padded.
        sampler: Says which images a step has, and how they are cropped.
        flips: Whether images are mirrored.
        device: Holds the images and makes the batches.
        channels_last: Whether batches have that memory format.
    """

    waited_s = 0.0
    skipped: tuple[str, ...] = ()

    def __init__(
        self, split: Split, sampler: BatchSampler, flips: bool, device: torch.device, channels_last: bool
    ) -> None:
        self._sampler = sampler
        self._flips = flips
        self._labels = torch.from_numpy(split.labels).to(device)
        self._crops = Crops(torch.from_numpy(split.images).to(device), sampler.margin, channels_last)
        self._scale = torch.tensor(255.0, device=device)

    def read(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)``, float32 in 0..1, and labels ``(B,)`` of a step."""
        indices = self._sampler.indices(step)
        tops, lefts, mirrored = self._sampler.crops(step)
        pixels = self._crops.take(indices, tops, lefts, mirrored if self._flips else None)
        return pixels.float().div_(self._scale), self._labels[indices]

    def labels(self, step: int) -> Tensor:
        """The labels of `read` alone; no image is made."""
        return self._labels[self._sampler.indices(step)]

    def close(self) -> None:
        """There are no workers to end."""


class Crops:
    """Padded images ``(N, C, H, W)``, in the memory format of batches, and their crops.

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
