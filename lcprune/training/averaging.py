"""Averaging the weights: a plain mean over the last part of a run, or an exponential moving average over all of it.

Source of the mean: Izmailov et al. 2018, arXiv:1803.05407 (stochastic weight averaging), with a learning rate that
keeps falling.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lcprune.data.loaders import TrainLoader
from lcprune.models import Network
from lcprune.recipe import Recipe

BATCHES = 100
"""Largest number of training batches for BatchNorm's new statistics; never more than one epoch."""
PREVIEW_BATCHES = 20
"""The same for an evaluation during training."""


def first_step(recipe: Recipe, iterations: int) -> int:
    """The step after which the first weights go into the average; the last ones are those of the last step."""
    train = recipe.train
    begin = min(round((1 - train.average) * iterations), iterations - 1)
    return iterations - (iterations - begin - 1) // train.average_every * train.average_every


def collect(average: AveragedModel, network: Network, recipe: Recipe, step: int, iterations: int) -> None:
    """Adds the weights after `step` steps of `iterations`, if that is due.

    With `train.ema` that is every step, and the decay begins at 0.1 and rises to what the recipe says, so that the
    initial weights do not dominate a short run.
    """
    if recipe.train.ema:
        added = int(average.n_averaged)  # on the CPU
        average.multi_avg_fn = get_ema_multi_avg_fn(min(recipe.train.ema, (1 + added) / (10 + added)))
        average.update_parameters(network)
        return
    first = first_step(recipe, iterations)
    if step <= first:
        average.n_averaged.zero_()  # a finished run that is extended starts a new average
    if step >= first and (step - first) % recipe.train.average_every == 0:
        average.update_parameters(network)


def settle(average: AveragedModel, network: Network, loader: TrainLoader, step: int, batches: int = BATCHES) -> None:
    """Sets the averaged weights in `network`, if there are any yet, and computes BatchNorm's statistics for them.

    The statistics are plain means over the batches that would follow after `step` steps, `batches` at most.
    """
    if average.n_averaged:
        with torch.no_grad():
            for mean, weight in zip(average.module.parameters(), network.parameters(), strict=True):
                weight.copy_(mean)
    steps = range(step, step + min(batches, loader.steps_per_epoch))
    _update_statistics(network, (loader.batch(step)[0] for step in steps))


@contextmanager
def previewed(average: AveragedModel, network: Network, loader: TrainLoader, step: int) -> Iterator[None]:
    """Within, `network` is what a run would write that ended after `step` steps; then it is as before, to the bit."""
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    device = next(network.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # dropout draws from it
        settle(average, network, loader, step, PREVIEW_BATCHES)
    try:
        yield
    finally:
        network.load_state_dict(kept)


def share_from_before(network: Network, step: int) -> float:
    """Largest share, after `step` steps, of BatchNorm's statistics that is from before training, 0 to 1."""
    layers = (part for part in network.modules() if isinstance(part, _BatchNorm) and part.training)
    return max((float((1 - layer.momentum) ** step) for layer in layers if layer.momentum is not None), default=0.0)


@torch.no_grad()
def _update_statistics(network: Network, batches: Iterator[Tensor]) -> None:
    """Recomputes the statistics of every BatchNorm but those of frozen groups, as torch's ``update_bn`` does of all."""
    layers = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.training]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean
    if layers:
        for images in batches:
            network(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
