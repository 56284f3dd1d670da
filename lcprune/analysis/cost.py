"""Cost of a network: of every sub-model alone, and of the groups and critics of the cascade."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from lcprune.exits import group_spans

Paid = TypeVar("Paid", int, float)


@dataclass(frozen=True)
class ExitCost:
    """Cost of one sub-model alone."""

    name: str
    exit_index: int
    macs: int
    """For one image."""
    params: int
    size_bytes: int | None = None
    """Of its ONNX file; None: not measured."""
    latency_ms: float | None = None
    """In onnxruntime on this machine's CPU: batch 1, one thread, median; None: not measured."""
    image_size: int | None = None
    """Height and width of the image that it works on, in pixels, where a network has several sizes."""


@dataclass(frozen=True)
class CascadeCost:
    """MACs of the parts of a cascade, for one image."""

    group_macs: tuple[int, ...]
    """Of every group, ``(K,)``."""
    critic_macs: tuple[int, ...]
    """Of every critic, ``(K - 1,)``: main has none."""
    starts: tuple[int, ...] = (0,)
    """Indices of the groups that read the image: the first one, and with several input sizes the first of each."""

    def __post_init__(self) -> None:
        """Refuses counts that fit no network.

        Raises:
            ValueError: If the two do not belong to one cascade, or a count is negative.
        """
        if not self.group_macs or len(self.critic_macs) != len(self.group_macs) - 1:
            raise ValueError(f"{len(self.group_macs)} groups do not go with {len(self.critic_macs)} critics")
        if min(self.group_macs + self.critic_macs) < 0:
            raise ValueError(f"MACs cannot be negative: {self}")

    @property
    def main_macs(self) -> int:
        """MACs of main alone: all groups of the largest input size, no critic."""
        return sum(self.group_macs[self.starts[-1] :])

    def kept(self, exits: Sequence[int]) -> "CascadeCost":
        """The cascade of these exits alone, ascending, the last of which takes every image that reaches it.

        Groups between two exits become one, and the last critic, if it is not main that comes last, ends its group.
        """
        groups = [sum(self.group_macs[first : last + 1]) for first, last in group_spans(exits, self.starts)]
        groups[-1] += sum(self.critic_macs[exits[-1] : exits[-1] + 1])  # main has none
        starts = [k for k, (first, _) in enumerate(group_spans(exits, self.starts)) if first in self.starts]
        return CascadeCost(tuple(groups), tuple(self.critic_macs[index] for index in exits[:-1]), tuple(starts))

    def exit_macs(self, kept: Sequence[int] | None = None) -> tuple[int, ...]:
        """`paid_at_exits`, in MACs."""
        return paid_at_exits(self.group_macs, self.critic_macs, kept, self.starts)


@dataclass(frozen=True)
class NetworkCost:
    """Cost of every sub-model of a network, and of its parts."""

    exits: tuple[ExitCost, ...]
    """All K, shallow first; main is the last."""
    cascade: CascadeCost

    def kept(self, exits: Sequence[int]) -> "NetworkCost":
        """The cascade of these exits alone; each keeps its name and its `exit_index`."""
        return NetworkCost(tuple(self.exits[index] for index in exits), self.cascade.kept(exits))


def paid_at_exits(
    groups: Sequence[Paid], critics: Sequence[Paid], kept: Sequence[int] | None = None, starts: Sequence[int] = (0,)
) -> tuple[Paid, ...]:
    """Cost of an image that takes each kept early exit, and last of one that takes none.

    Args:
        groups: What each group costs, ``(K,)``, in any unit.
        critics: What each critic costs, ``(K - 1,)``.
        kept: ``exit_index`` of the early exits in the cascade, ascending; the others' critics are not computed. None
            keeps all.
        starts: See `CascadeCost.starts`.

    Raises:
        ValueError: If ``kept`` is not ascending or names no early exit.
    """
    early = range(len(critics))
    exits: Sequence[int] = early if kept is None else kept
    if list(exits) != sorted(set(exits)) or not set(exits) <= set(early):
        raise ValueError(f"exits {list(exits)} are not an ascending choice from {list(early)}")
    spans = group_spans([*exits, len(groups) - 1], starts)
    steps = [sum(groups[first : last + 1]) + sum(critics[last : last + 1]) for first, last in spans]
    return tuple(accumulate(steps))
