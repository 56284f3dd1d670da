"""One file per training method, one small protocol."""

from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.training.methods.backprop import Backprop
from lcprune.training.methods.base import Losses, Method
from lcprune.training.methods.deep_supervision import DeepSupervision
from lcprune.training.methods.local_critic import LocalCritic

__all__ = ["Losses", "Method", "build_method"]


def build_method(recipe: Recipe, network: Network) -> Method:
    """The training method that a recipe names, for its network."""
    critics, smoothing = recipe.critics, recipe.train.label_smoothing
    match recipe.train.method:
        case "backprop":
            return Backprop(network, smoothing)
        case "deep_supervision":
            return DeepSupervision(
                network,
                critics.weights,
                smoothing,
                distill=critics.distill,
                temperature=critics.distill_temperature,
            )
        case "local_critic":
            return LocalCritic(
                network,
                loss=critics.loss,
                mix=critics.mix,
                update_every=critics.update_every,
                label_smoothing=smoothing,
                memory=recipe.train.memory,
                overlap=recipe.train.overlap,
            )
