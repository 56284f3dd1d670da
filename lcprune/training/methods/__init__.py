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
        iterations: Steps of the whole run; default: those of the recipe. Only weights that decay depend on it.

    Raises:
        ValueError: If weights decay, but the number of steps is not known.
    """
    build: Build = importlib.import_module(METHODS[recipe.train.method].module).build
    return build(recipe, network, iterations)
