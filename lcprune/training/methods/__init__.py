"""Training methods: one file each, one small protocol; `lcprune.specs.METHODS` names them."""

import importlib

from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.specs import METHODS
from lcprune.training.methods.base import Build, Losses, Method

__all__ = ["Losses", "Method", "build_method"]


def build_method(recipe: Recipe, network: Network, iterations: int | None = None) -> Method:
    """The training method that a recipe names, for its network.

    Args:
        recipe: Names the method.
        network: Built from the same recipe.
        iterations: Steps of the whole run; left out, what the recipe says. Weights that decay need to know.

    Raises:
        ValueError: If weights are to decay over a run whose number of steps is not known.
    """
    build: Build = importlib.import_module(METHODS[recipe.train.method].module).build
    return build(recipe, network, iterations)
