"""Frozen layer groups: for the whole run, or while the critics warm up."""

from lcprune.models import Network
from lcprune.recipe import Recipe


class Freezer:
    """Freezes and unfreezes the layer groups of a network as the recipe says for each step.

    A frozen group has no gradients and is in eval mode, so that BatchNorm keeps its statistics and dropout is off.
    """

    def __init__(self, recipe: Recipe, network: Network) -> None:
        """In `network` nothing is frozen yet."""
        train = recipe.train
        self._warmup = train.critic_warmup
        # whitening has weights without gradients, which stay so
        self._parts = [
            (part, [p for p in part.parameters() if p.requires_grad], number in train.frozen_groups)
            for number, part in enumerate(network.parts, start=1)
        ]
        self._is_set: bool | None = None if train.critic_warmup or train.frozen_groups else False

    def set(self, step: int) -> None:
        """Freezes the groups that are frozen at `step`, from 0, and unfreezes the others."""
        warming_up = step < self._warmup
        if self._is_set == warming_up:
            return
        self._is_set = warming_up
        for part, weights, always in self._parts:
            is_frozen = always or warming_up
            part.train(not is_frozen)
            for weight in weights:
                weight.requires_grad_(not is_frozen)


def frozen_parameters(recipe: Recipe, network: Network) -> set[int]:
    """Identities of the weights that are frozen for the whole run."""
    frozen = recipe.train.frozen_groups
    return {id(p) for number, part in enumerate(network.parts, start=1) if number in frozen for p in part.parameters()}
