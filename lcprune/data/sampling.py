"""What is random about a batch, as a function of the seed and the step alone: order, crops, flips and mixing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lcprune.data.transforms import mixed
from lcprune.errors import DataError

ORDER, AUGMENT, FLIP, TRANSFORM, MIX = 0, 1, 2, 3, 4
"""Streams of random numbers that start from the same seed."""


def generator(seed: int, stream: int, counter: int) -> torch.Generator:
    """A CPU generator for one purpose at one step; hashed, because neighbouring seeds and steps must be independent."""
    return torch.Generator().manual_seed(_state(seed, stream, counter))


@contextmanager
def global_generator(seed: int, stream: int, counter: int) -> Iterator[None]:
    """Seeds torch's default CPU generator inside the block, and restores its state afterwards.

    For code that takes no generator, such as torchvision's transforms.
    """
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(_state(seed, stream, counter))  # torch.manual_seed would reach CUDA's too
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def epoch_order(count: int, seed: int, epoch: int, weights: Tensor | None = None) -> Tensor:
    """Order of the images in an epoch, ``(count,)``: each once, or drawn with these `weights`, ``(count,)``."""
    random = generator(seed, ORDER, epoch)
    if weights is None:
        return torch.randperm(count, generator=random)
    # torch.multinomial takes 2^24 categories at most, and a sum of that many float32 would not be exact
    edges = torch.cumsum(weights.double(), 0)
    places = torch.rand(count, generator=random, dtype=torch.float64) * edges[-1]
    return torch.searchsorted(edges, places, right=True).clamp_(max=count - 1)


class BatchSampler:
    """Indices of the images in every batch, and their random crops and flips: functions of the seed and the step.

    Args:
        count: Number of images.
        batch_size: Images in a batch. An incomplete last batch of an epoch is dropped.
        seed: Decides the order and every crop and flip.
        margin: Pixels by which images are padded before they are cropped.
        flip: ``random`` draws at every step which images are mirrored; ``alternating`` draws it once for the first
            epoch, and each epoch mirrors those that the one before did not.
        weights: How often each image is drawn, ``(N,)``; None: once in an epoch.
        rows: Which rows of every batch are wanted.

    Raises:
        DataError: If there are fewer images than `batch_size`.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        margin: int,
        flip: Literal["random", "alternating"],
        weights: Tensor | None,
        rows: slice,
    ) -> None:
        if batch_size < 1 or margin < 0:
            raise ValueError(f"batch_size {batch_size} must be positive and pad {margin} not negative")
        if batch_size > count:
            raise DataError(
                f"data.batch_size is {batch_size}, but there are only {count} training images",
                f"set data.batch_size to {count} or less",
            )
        self.batch_size = batch_size
        self.steps_per_epoch = count // batch_size
        self.seed = seed
        self.margin = margin
        self.rows = rows
        self._count = count
        self._weights = weights
        self._device = torch.device("cpu")
        self._order: tuple[int, Tensor] | None = None
        self._mirrored = None
        if flip == "alternating":
            self._mirrored = torch.randint(2, (count,), generator=generator(seed, FLIP, 0))

    def to(self, device: torch.device) -> "BatchSampler":
        """Indices and draws are on this device from now on; they are drawn on the CPU, the same for every device."""
        self._device = device
        self._mirrored = None if self._mirrored is None else self._mirrored.to(device)
        return self

    def indices(self, step: int) -> Tensor:
        """The images of a step, from 0 over all epochs, ``(B,)``; the order of the last epoch asked for is kept."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(self._count, self.seed, epoch, self._weights).to(self._device)
        return self._order[1][position * self.batch_size : (position + 1) * self.batch_size][self.rows]

    def crops(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Corner of every crop (row, column) and whether it is mirrored, 0 or 1, ``(B,)`` each."""
        places = 2 * self.margin + 1  # one number per image says all three
        drawn = torch.randint(2 * places * places, (self.batch_size,), generator=generator(self.seed, AUGMENT, step))
        corner = drawn // 2
        draws = torch.stack([corner // places, corner % places, drawn % 2])[:, self.rows]
        tops, lefts, mirrored = draws.to(self._device, non_blocking=self._device.type == "cuda")  # else it waits
        if self._mirrored is not None:
            mirrored = (self._mirrored[self.indices(step)] + step // self.steps_per_epoch) % 2
        return tops, lefts, mirrored


def class_weights(labels: NDArray[np.int64], classes: int) -> Tensor:
    """Weight of every class: in inverse proportion to its size, 1 on average over the images, ``(classes,)`` float32.

    A class without images weighs nothing.
    """
    counts = np.bincount(labels, minlength=classes)
    present = int((counts > 0).sum())
    weights = np.divide(len(labels), present * counts, out=np.zeros(classes), where=counts > 0)
    return torch.from_numpy(weights).float()


@dataclass(frozen=True)
class Targets:
    """Targets of a batch, and the mixing of its images."""

    classes: int
    seed: int
    mixup: float = 0.0
    """Parameter of the Beta distribution; 0: off."""
    cutmix: float = 0.0
    loss_weights: Tensor | None = None
    """Of every class, ``(classes,)``; None: all weigh the same."""

    @property
    def mixes(self) -> bool:
        """Whether the images of a batch are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0

    def of(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The images, mixed if `mixes`, and their targets.

        Args:
            images: In 0..1, ``(B, C, H, W)``.
            labels: ``(B,)``.
            step: From 0.

        Returns:
            Images of the same shape, and labels, ``(B,)``, or the probability of every class, ``(B, classes)``, times
            the weight of the image's loss: a row's sum is that weight.
        """
        if not self.mixes and self.loss_weights is None:
            return images, labels
        shares = torch.nn.functional.one_hot(labels, self.classes).to(images.dtype)
        if self.mixes:
            with global_generator(self.seed, MIX, step):
                images, shares = mixed(images, labels, self.classes, self.mixup, self.cutmix)
        return images, shares if self.loss_weights is None else shares * self.loss_weights.to(shares.device)

    def of_labels(self, labels: Tensor, step: int, size: tuple[int, int]) -> Tensor:
        """The targets that `of` gives, without the images.

        Args:
            labels: ``(B,)``; of the whole batch where images are mixed.
            step: From 0.
            size: Height and width of the images, which decide what share of them cutmix replaces.
        """
        blank = torch.zeros(len(labels), 1, *size, device=labels.device) if self.mixes else torch.zeros(len(labels))
        return self.of(blank, labels, step)[1]


def _state(seed: int, stream: int, counter: int) -> int:
    return int(np.random.SeedSequence([seed, stream, counter]).generate_state(1, np.uint64)[0])
