"""One file per training method, one small protocol. Those that only the paper needs are in `lcprune.paper.methods`."""

from collections.abc import Callable
from importlib import import_module

from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.recipe.schema import CriticsConfig
from lcprune.training.freezing import hold_frozen
from lcprune.training.methods.backprop import Backprop
from lcprune.training.methods.base import Losses, Method, Wrap, as_it_is
from lcprune.training.methods.critic_loss import CriticLoss
from lcprune.training.methods.deep_supervision import DeepSupervision
from lcprune.training.methods.local_critic import LocalCritic

__all__ = ["Losses", "Method", "Wrap", "as_it_is", "build_method", "critic_loss"]


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
    critics, train = recipe.critics, recipe.train
    hold_frozen(recipe, network)
    match train.method:
        case "backprop":
            return Backprop(network, train.label_smoothing, wrap=wrap)
        case "deep_supervision":
            return DeepSupervision(
                network,
                critics.weights,
                train.label_smoothing,
                distill=critics.distill,
                temperature=critics.distill_temperature,
                decay_over=_decay_over(recipe, iterations),
                wrap=wrap,
            )
        case "dni":
            return _from_paper("dni", "Dni")(
                network, update_every=critics.update_every, label_smoothing=train.label_smoothing, wrap=wrap
            )
        case "local_critic" | "critic":
            kind: Callable[..., Method] = (
                LocalCritic if train.method == "local_critic" else _from_paper("critic", "CriticTraining")
            )
            return kind(
                network,
                critic_loss(critics),
                update_every=critics.update_every,
                label_smoothing=train.label_smoothing,
                memory=train.memory,
                overlap=train.overlap,
                wrap=wrap,
            )
        case "sobolev_local_critic" | "sobolev_critic":
            return _from_paper("sobolev", "Sobolev")(
                network,
                critic_loss(critics),
                target="next" if train.method == "sobolev_local_critic" else "main",
                weight=critics.sobolev,
                update_every=critics.update_every,
                label_smoothing=train.label_smoothing,
                wrap=wrap,
            )


def _from_paper(module: str, name: str) -> Callable[..., Method]:
    """A method that the product does not import."""
    method: Callable[..., Method] = getattr(import_module(f"lcprune.paper.methods.{module}"), name)
    return method


def critic_loss(critics: CriticsConfig) -> CriticLoss:
    """What critics learn from, as a recipe says it."""
    return CriticLoss(
        critics.loss, critics.mix, critics.one_sided, critics.distill, temperature=critics.distill_temperature
    )


def _decay_over(recipe: Recipe, iterations: int | None) -> int | None:
    """Steps over which the weights of exits decay; None where they are constant."""
    if recipe.critics.weight_schedule == "constant":
        return None
    steps = iterations or recipe.train.iterations
    if steps is None:
        raise ValueError("the weights of exits decay over the run: say how many iterations it has")
    return steps
