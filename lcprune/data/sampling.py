"""What is random about a batch, as a function of the seed and the step alone: the order, the crops, the mixing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lcprune.data.transforms import mixed

ORDER, AUGMENT, FLIP, TRANSFORM, MIX = 0, 1, 2, 3, 4
"""Streams of random numbers that start from the same seed."""


def generator(seed: int, stream: int, counter: int) -> torch.Generator:
    """A CPU generator for one purpose at one time; mixed, because neighbouring seeds and steps must not be alike."""
    return torch.Generator().manual_seed(_state(seed, stream, counter))


@contextmanager
def global_generator(seed: int, stream: int, counter: int) -> Iterator[None]:
    """Inside, torch's own CPU generator starts from these; outside it goes on as if nothing had been drawn.

    For code that takes no generator, which is what torchvision's transforms are.
    """
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(_state(seed, stream, counter))  # torch.manual_seed would reach CUDA's too
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def epoch_order(count: int, seed: int, epoch: int, weights: Tensor | None = None) -> Tensor:
    """Which image comes when in an epoch, ``(count,)``: each once, or drawn with these `weights`, ``(count,)``."""
    drawn_by = generator(seed, ORDER, epoch)
    if weights is None:
        return torch.randperm(count, generator=drawn_by)
    # torch.multinomial takes 2^24 categories at most, and a sum of that many float32 would not be exact
    edges = torch.cumsum(weights.double(), 0)
    places = torch.rand(count, generator=drawn_by, dtype=torch.float64) * edges[-1]
    return torch.searchsorted(edges, places, right=True).clamp_(max=count - 1)


def crop_draws(batch_size: int, margin: int, seed: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Corner of every crop (row, column) and whether it is mirrored, ``(B,)`` each.

    One number per image says all three; it is drawn on the CPU, so that every device sees the same images.
    """
    places = 2 * margin + 1
    drawn = torch.randint(2 * places * places, (batch_size,), generator=generator(seed, AUGMENT, step))
    corner = drawn // 2
    return corner // places, corner % places, drawn % 2


def first_mirrored(count: int, seed: int) -> Tensor:
    """Which images an alternating flip mirrors in the first epoch: 1 where it does, ``(count,)``."""
    return torch.randint(2, (count,), generator=generator(seed, FLIP, 0))


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
    """What a batch is to learn, and the mixing of its images."""

    classes: int
    seed: int
    mixup: float = 0.0
    """Parameter of the Beta distribution; 0: off."""
    cutmix: float = 0.0
    loss_weights: Tensor | None = None
    """Of every class, ``(classes,)``; None: all count the same."""

    @property
    def is_plain(self) -> bool:
        """Whether labels stay labels."""
        return not self.mixup and not self.cutmix and self.loss_weights is None

    @property
    def mixes(self) -> bool:
        """Whether the images of a batch are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0

    def of(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The images, mixed where that is asked for, and what they are to learn.

        Args:
            images: In 0..1, ``(B, C, H, W)``.
            labels: ``(B,)``.
            step: From 0.

        Returns:
            Images of the same shape, and labels, ``(B,)``, or the share of every class, ``(B, classes)``, times the
            weight of the image's loss: a row's sum is that weight.
        """
        if self.is_plain:
            return images, labels
        shares = torch.nn.functional.one_hot(labels, self.classes).to(images.dtype)
        if self.mixes:
            with global_generator(self.seed, MIX, step):
                images, shares = mixed(images, labels, self.classes, self.mixup, self.cutmix)
        return images, shares if self.loss_weights is None else shares * self.loss_weights.to(shares.device)

    def of_labels(self, labels: Tensor, step: int, size: tuple[int, int]) -> Tensor:
        """What the images are to learn, as `of` says it, without the images.

        Args:
            labels: ``(B,)``; of the whole batch where images are mixed.
            step: From 0.
            size: Height and width of the images; a part that is cut out covers a share of them.
        """
        blank = torch.zeros(len(labels), 1, *size, device=labels.device) if self.mixes else torch.zeros(len(labels))
        return self.of(blank, labels, step)[1]


def rows_made_and_kept(rows: slice | None, targets: Targets) -> tuple[slice, slice]:
    """Which rows of a batch have to be made to get `rows`, None: all; and which of those made are to be kept."""
    everything = slice(None)
    if rows is None:
        return everything, everything
    return (everything, rows) if targets.mixes else (rows, everything)


def _state(seed: int, stream: int, counter: int) -> int:
    return int(np.random.SeedSequence([seed, stream, counter]).generate_state(1, np.uint64)[0])
