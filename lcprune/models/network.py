"""A network cut into layer groups, with a critic at the end of every group but the last (Figure 1b of the paper)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
    """Layer groups f_1 .. f_K (Eq. 1) and critics c_1 .. c_K-1 (Eq. 2)."""

    normalize: nn.Module

    def __init__(
        self,
        normalize: nn.Module,
        groups: Sequence[nn.Module],
        critics: Sequence[nn.Module],
        synthesizers: Sequence[nn.Module] = (),
    ) -> None:
        """The last group ends in the logits of main.

        Args:
            normalize: What is done to an image first.
            groups: Layer groups, shallow first.
            critics: One at the end of every group but the last.
            synthesizers: Modules that are used in training only: no exit and no sub-model contains them.

        Raises:
            ValueError: If there is not one critic for every group but the last.
        """
        super().__init__()
        if len(critics) != len(groups) - 1:
            raise ValueError(f"{len(groups)} groups need {len(groups) - 1} critics, not {len(critics)}")
        self.normalize = normalize
        self.groups = nn.ModuleList(groups)
        self.critics = nn.ModuleList(critics)
        self.synthesizers = nn.ModuleList(synthesizers)

    @property
    def exit_names(self) -> tuple[str, ...]:
        """``sub-model 1`` .. ``main``, shallow first."""
        return (*(f"sub-model {k}" for k in range(1, len(self.groups))), "main")

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """The layer groups, shallow first; a group of several `Parts` is replaced by these."""
        return tuple(part for group in self.groups for part in (group if isinstance(group, Parts) else (group,)))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Logits of all K exits, shallow first: ``(N, C, H, W)`` in 0..1 to K times ``(N, classes)``."""
        hidden = self.normalize(image)
        logits = []
        for group, critic in zip(self.groups[:-1], self.critics, strict=True):
            hidden = group(hidden)  # (N, C_k, H_k, W_k)
            logits.append(critic(hidden))
        logits.append(self.groups[-1](hidden))
        return logits

    def truncated(self, k: int) -> "Network":
        """The first `k` exits alone, sharing their weights: critic `k` becomes the end of the last group.

        Raises:
            ValueError: If k is not in 1..K.
        """
        if not 1 <= k <= len(self.groups):
            raise ValueError(f"exit {k} of a network with {len(self.groups)} exits")
        last = nn.Sequential(self.groups[k - 1], *self.critics[k - 1 : k])
        return Network(self.normalize, [*self.groups[: k - 1], last], list(self.critics[: k - 1]))

    def submodel(self, k: int) -> nn.Sequential:
        """Groups 1..k and critic k as a plain module from image to logits; k = K is main without critics.

        It shares its weights with this network and refers to nothing else of it.

        Raises:
            ValueError: If k is not in 1..K.
        """
        if not 1 <= k <= len(self.groups):
            raise ValueError(f"sub-model {k} of a network with {len(self.groups)} exits")
        critic = self.critics[k - 1 : k]  # empty for main
        return nn.Sequential(self.normalize, *self.groups[:k], *critic)
