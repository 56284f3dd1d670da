"""A network cut into layer groups, with a critic at the end of every group but the last (Figure 1b of the paper)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcprune.exits import exit_names


def reduced(image: Tensor, size: int) -> Tensor:
    """A square image made smaller: an average over whole windows, then, where they do not get there, bilinear.

    Args:
        image: ``(N, C, H, H)``.
        size: Height and width of the result, at most H.
    """
    side = image.shape[-1]
    window = max(divisor for divisor in range(1, side // size + 1) if side % divisor == 0)
    if window > 1:
        image = F.avg_pool2d(image, window)
    if image.shape[-1] == size:
        return image
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)


class Reduce(nn.Module):
    """`reduced` as a module."""

    def __init__(self, size: int) -> None:
        """`size`: height and width of the smaller image, in pixels."""
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        """``(N, C, H, H)`` to ``(N, C, size, size)``."""
        return reduced(image, self.size)


class Normalize(nn.Module):
    """Maps an image in 0..1 to zero mean and unit variance per channel, inside the network."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """`mean` and `std` per channel, of images in 0..1."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """``(N, C, H, W)`` to the same shape."""
        return (image - self.mean) / self.std


class Parts(nn.Sequential):
    """Several layer groups as one, with one exit at the end."""


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Puts `module` into eval mode; afterwards each of its submodules is back in its own mode."""
    modes = [(part, part.training) for part in module.modules()]  # frozen groups are in eval mode anyway
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class Network(nn.Module):
    """Layer groups f_1 .. f_K (Eq. 1) and critics c_1 .. c_K-1 (Eq. 2).

    With several input sizes it has the groups of each size one after another, the smallest first. The first of them
    read the image anew, and the last of each but the largest ends in logits, so that its critic is an identity. The
    convolutions and linear layers of all sizes are the same; BatchNorm and critics are not.
    """

    normalize: nn.Module

    def __init__(
        self,
        normalize: nn.Module,
        groups: Sequence[nn.Module],
        critics: Sequence[nn.Module],
        synthesizers: Sequence[nn.Module] = (),
        image_sizes: Sequence[int] = (),
    ) -> None:
        """The last group ends in the logits of main.

        Args:
            normalize: What is done to an image first.
            groups: Layer groups, shallow first.
            critics: One at the end of every group but the last.
            synthesizers: Modules that are used in training only: no exit and no sub-model contains them.
            image_sizes: Height and width of the image that each group works on, in pixels; empty for one size.

        Raises:
            ValueError: If there is not one critic for every group but the last, or not one size for every group.
        """
        super().__init__()
        if len(critics) != len(groups) - 1:
            raise ValueError(f"{len(groups)} groups need {len(groups) - 1} critics, not {len(critics)}")
        if len(image_sizes) not in (0, len(groups)):
            raise ValueError(f"{len(groups)} groups do not go with {len(image_sizes)} image sizes")
        self.normalize = normalize
        self.groups = nn.ModuleList(groups)
        self.critics = nn.ModuleList(critics)
        self.synthesizers = nn.ModuleList(synthesizers)
        self.image_sizes = tuple(image_sizes)

    @property
    def starts(self) -> tuple[int, ...]:
        """Indices of the groups that read the image, and not the hidden layer before them."""
        sizes = self.image_sizes
        return (0, *(k for k in range(1, len(sizes)) if sizes[k] != sizes[k - 1]))

    @property
    def exit_names(self) -> tuple[str, ...]:
        """See `exit_names`."""
        return exit_names(len(self.groups), sorted(set(self.image_sizes)))

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """The layer groups, shallow first; a group of several `Parts` is replaced by these."""
        return tuple(part for group in self.groups for part in (group if isinstance(group, Parts) else (group,)))

    @property
    def shared_names(self) -> dict[str, str]:
        """Names of weights that have been named before, as those of the second input size have, with the first name."""
        first = {id(tensor): name for name, tensor in reversed(list(self.named_parameters(remove_duplicate=False)))}
        every = self.named_parameters(remove_duplicate=False)
        return {name: first[id(tensor)] for name, tensor in every if first[id(tensor)] != name}

    def entrance(self, k: int) -> nn.Sequential:
        """What is done to an image before group `k` reads it, where k is one of `starts`."""
        return nn.Sequential(*(Reduce(size) for size in self.image_sizes[k : k + 1]), self.normalize)

    def at(self, size: int) -> "Network":
        """The exits of one input size alone, for images of any size; it shares its weights with this network."""
        of_size = [k for k, each in enumerate(self.image_sizes) if each == size]
        start, end = of_size[0], of_size[-1]
        sizes = self.image_sizes[start : end + 1]
        groups, critics = list(self.groups[start : end + 1]), list(self.critics[start:end])
        return Network(self.normalize, groups, critics, image_sizes=sizes)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Logits of all K exits, shallow first: ``(N, C, H, W)`` in 0..1 to K times ``(N, classes)``."""
        logits, hidden, starts = [], image, self.starts
        for k, group in enumerate(self.groups):
            if k in starts:
                hidden = self.normalize(reduced(image, self.image_sizes[k]) if self.image_sizes else image)
            hidden = group(hidden)  # (N, C_k, H_k, W_k)
            logits.append(self.critics[k](hidden) if k < len(self.critics) else hidden)
        return logits

    def truncated(self, k: int) -> "Network":
        """The first `k` exits alone, sharing their weights: critic `k` becomes the end of the last group.

        Raises:
            ValueError: If k is not in 1..K.
        """
        if not 1 <= k <= len(self.groups):
            raise ValueError(f"exit {k} of a network with {len(self.groups)} exits")
        last = nn.Sequential(self.groups[k - 1], *self.critics[k - 1 : k])
        groups, sizes = [*self.groups[: k - 1], last], self.image_sizes[:k]
        return Network(self.normalize, groups, list(self.critics[: k - 1]), image_sizes=sizes)

    def submodel(self, k: int) -> nn.Sequential:
        """The groups up to critic k, and the critic, as a plain module from image to logits; main has no critic.

        It shares its weights with this network and refers to nothing else of it.

        Raises:
            ValueError: If k is not in 1..K.
        """
        if not 1 <= k <= len(self.groups):
            raise ValueError(f"sub-model {k} of a network with {len(self.groups)} exits")
        start = max(start for start in self.starts if start < k)
        critic = self.critics[k - 1 : k]  # empty for main
        return nn.Sequential(*self.entrance(start), *self.groups[start:k], *critic)
