"""The networks on which several processes are measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A network, and how often a step is measured."""

    name: str
    recipe: str
    overrides: tuple[str, ...]
    rounds: int
    burst: int
    """Steps in a turn that count."""

    @property
    def local_critic(self) -> list[str]:
        """Overrides of the recipe for local critic training."""
        return [*self.overrides, "train.method=local_critic", "critics.loss=cascade"]

    @property
    def backprop(self) -> list[str]:
        """Overrides of the recipe for backpropagation through main."""
        return [*self.overrides, "train.method=backprop"]


QUARTER = ("model.width=0.25",)
PAPER = Case("quarter width, the paper's critics", "vgg_cifar10", QUARTER, rounds=5, burst=6)
POOLED = Case("quarter width, pooled critics", "vgg_cifar10_small", ("critics.batch_norm=false",), rounds=5, burst=5)
SPEED = (PAPER, POOLED)

MEMORY = (
    Case("paper width, the paper's critics", "vgg_cifar10", (), 1, 1),
    Case("paper width, pooled critics", "vgg_cifar10", ("critics.head=pooled",), 1, 1),
    PAPER,
    POOLED,
)
