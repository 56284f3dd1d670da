"""What the processes of a training answer together; one alone answers for itself."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from lcprune.data.sources import Split
from lcprune.models import Network
from lcprune.training.checkpoint import TrainingState, restore
from lcprune.training.predicting import predict_logits


class Ranks(Protocol):
    """The processes that train a network together. All ask the same questions in the same order."""

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        ...

    def begin(self, step: int) -> None:
        """Said before each step, numbered from 0."""
        ...

    def stops(self, asked: bool) -> bool:
        """Asked once a step: whether all stop after this one, because one of them was asked to a little before."""
        ...

    def whole_losses(self, exits: Tensor, critics: Tensor) -> tuple[list[float], list[float]]:
        """Losses of all exits and of all critics, from those that this process knows."""
        ...

    def first_place(self, place: str | None) -> str | None:
        """The first answer that is not None, by rank."""
        ...

    def predict_logits(self, network: Network, split: Split, device: torch.device, channels_last: bool) -> Tensor:
        """Logits of every exit for all images of `split`, ``(K, N, classes)``, on the CPU of every process."""
        ...

    def settle(self, state: TrainingState) -> None:
        """Applies what has not been learnt yet from the steps done."""
        ...

    def whole(self, state: TrainingState) -> TrainingState | None:
        """All that is trained, for a checkpoint, where this process writes it; else None."""
        ...

    def restore(self, state: TrainingState, content: dict[str, Any]) -> None:
        """Puts a checkpoint's content into what this process holds; see `checkpoint.restore`."""
        ...

    def watched(self) -> AbstractContextManager[None]:
        """Inside, a process that is gone is named."""
        ...

    def together(self, names: Sequence[str]) -> tuple[str, ...]:
        """All names that any process knows, each once, in order."""
        ...

    def close(self) -> None:
        """Waits for what is under way; the last question of all."""
        ...


class Alone:
    """One process, which is all `Ranks` at once."""

    is_writer = True

    def begin(self, step: int) -> None:
        """See `Ranks`; layers that draw numbers go on drawing."""

    def stops(self, asked: bool) -> bool:
        """See `Ranks`; here at once."""
        return asked

    def whole_losses(self, exits: Tensor, critics: Tensor) -> tuple[list[float], list[float]]:
        """See `Ranks`; one wait for the device."""
        values: list[float] = torch.cat([exits, critics]).tolist()
        return values[: len(exits)], values[len(exits) :]

    def first_place(self, place: str | None) -> str | None:
        """See `Ranks`."""
        return place

    def predict_logits(self, network: Network, split: Split, device: torch.device, channels_last: bool) -> Tensor:
        """See `Ranks`."""
        return predict_logits(network, split, device, channels_last)

    def settle(self, state: TrainingState) -> None:
        """See `Ranks`; nothing is late."""

    def whole(self, state: TrainingState) -> TrainingState | None:
        """See `Ranks`."""
        return state

    def restore(self, state: TrainingState, content: dict[str, Any]) -> None:
        """See `Ranks`."""
        restore(state, content)

    def watched(self) -> AbstractContextManager[None]:
        """See `Ranks`."""
        return nullcontext()

    def together(self, names: Sequence[str]) -> tuple[str, ...]:
        """See `Ranks`."""
        return tuple(names)

    def close(self) -> None:
        """See `Ranks`."""
