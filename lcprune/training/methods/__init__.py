"""Training methods: one file each, one small protocol; `lcprune.specs.METHODS` names them."""

import importlib

from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.specs import METHODS
from lcprune.training.freezing import hold_frozen
from lcprune.training.methods.base import Build, Losses, Method, Wrap, as_it_is

__all__ = ["Losses", "Method", "Wrap", "as_it_is", "build_method"]


def build_method(recipe: Recipe, network: Network, iterations: int | None = None, wrap: Wrap = as_it_is) -> Method:
    """The training method that a recipe names, for its network.

    Args:
        recipe: Names the method.
        network: Built from the same recipe.
        iterations: Steps of the whole run; left out, what the recipe says. Weights that decay need to know.
        wrap: Goes around each part that the method calls and that learns when it is called; what is frozen for the
            whole run shows that by then: its weights need no gradient.

    Raises:
        ValueError: If weights are to decay over a run whose number of steps is not known.
    """
    hold_frozen(recipe, network)
    build: Build = importlib.import_module(METHODS[recipe.train.method].module).build
    return build(recipe, network, iterations, wrap)
