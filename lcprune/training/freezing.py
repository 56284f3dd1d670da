"""Layer groups that do not learn: for the whole run, or while the critics warm up."""

from lcprune.models import Network
from lcprune.recipe import Recipe


class Freezer:
    """Holds the layer groups of a network in the state that a recipe asks for at each step.

    A frozen group has no gradients and is in eval mode, so that BatchNorm keeps its statistics and dropout is off.
    """

    def __init__(self, recipe: Recipe, network: Network) -> None:
        """Takes `network` as it is for one in which everything learns."""
        train = recipe.train
        self._warmup = train.critic_warmup
        # of a part that is frozen for ever nothing learns; whitening has weights that never do
        self._parts = [
            (part, [p for p in part.parameters() if p.requires_grad], number in train.frozen_groups)
            for number, part in enumerate(network.parts, start=1)
        ]
        self._is_set: bool | None = None if train.critic_warmup or train.frozen_groups else False

    def set(self, step: int) -> None:
        """Freezes what is frozen at `step`, from 0, and lets learn what learns."""
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


def hold_frozen(recipe: Recipe, network: Network) -> None:
    """Says of the weights that are frozen for the whole run that they need no gradient."""
    frozen = frozen_parameters(recipe, network)
    for weight in network.parameters():
        if id(weight) in frozen:
            weight.requires_grad_(False)
