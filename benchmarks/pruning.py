"""Structured pruning with torch-pruning: it removes channels of main, which is then fine-tuned with SGD."""

import copy
import importlib
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lcprune.analysis.counting import count_macs
from lcprune.data.loaders import TrainLoader
from lcprune.errors import SetupError
from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.training.allocator import keep_freed_memory
from lcprune.training.methods import build_method
from lcprune.training.optim import build_optimizers, lr_factor
from lcprune.training.step import build_step

PRUNING_STEPS = 100
"""A hundredth of the channels goes at a time, and what is left is ranked anew."""
MAX_PRUNING_RATIO = 0.9
"""Of a layer's channels; without a limit a ranking over all layers leaves one channel in some."""
GRADIENT_BATCHES = 2
"""Training batches behind a ranking by gradients."""
GRADIENTS_EVERY = 5
"""Pruning steps for which gradients serve; the library prunes them with their weights."""
TICKS = 1_000_000
"""Parts of a fine-tuning, for a learning rate that follows the clock and not the steps."""

CRITERIA = {
    "group norm, each layer": "GroupMagnitudeImportance",
    "group norm, all layers": "GroupMagnitudeImportance",
    "BatchNorm scale, all layers": "BNScaleImportance",
    "LAMP, all layers": "LAMPImportance",
    "Taylor, each layer": "GroupTaylorImportance",
    "Taylor, all layers": "GroupTaylorImportance",
}
"""What channels are ranked by, and in what: one ranking for the whole network, or each layer loses the same share.

They are the library's criteria that need no training before they prune, with its own settings. Taylor's needs gradients
of a few batches.
"""


def torch_pruning() -> Any:
    """The library, which only this comparison needs.

    Raises:
        SetupError: If it is not installed.
    """
    try:
        return importlib.import_module("torch_pruning")
    except ModuleNotFoundError:
        raise SetupError("torch-pruning is not installed", "pip install torch-pruning") from None


def clock() -> float:
    """Seconds of computing: what a machine with nothing else to do would need, however busy this one is."""
    return time.process_time() / torch.get_num_threads()


def main_alone(network: Network) -> Network:
    """A copy of main, without critics, as a network of one group; in eval mode and contiguous memory."""
    alone = Network(copy.deepcopy(network.normalize), [nn.Sequential(*copy.deepcopy(network.groups))], [])
    return alone.to(memory_format=torch.contiguous_format).eval()


def prune(network: Network, criterion: str, max_macs: int, loader: TrainLoader, round_to: int = 1) -> Network | None:
    """Main of `network` without its least important channels, not fine-tuned; None if it does not get that small.

    Args:
        network: Left as it is.
        criterion: Of `CRITERIA`.
        max_macs: Of the result, for one image. It has as many as possible.
        loader: Gives the images for a ranking by gradients.
        round_to: Channels of every layer are a multiple of it, as far as the layer has so many.
    """
    tp = torch_pruning()
    pruned = main_alone(network)
    module = pruned.submodel(1)
    images, _ = loader.batch(0)
    classifier = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        module,
        torch.zeros(1, *images.shape[1:]),
        importance=getattr(tp.importance, CRITERIA[criterion])(),
        global_pruning=criterion.endswith("all layers"),
        pruning_ratio=1.0,
        max_pruning_ratio=MAX_PRUNING_RATIO,
        iterative_steps=PRUNING_STEPS,
        ignored_layers=[pruned.normalize, classifier],
        round_to=round_to if round_to > 1 else None,
        in_channel_groups={},  # the library writes into its defaults
        out_channel_groups={},
    )
    image_shape = (images.shape[1], images.shape[2], images.shape[3])
    for done in range(PRUNING_STEPS):
        if criterion.startswith("Taylor") and done % GRADIENTS_EVERY == 0:
            pruned.zero_grad(set_to_none=True)
            for index in range(GRADIENT_BATCHES):
                images, labels = loader.batch(index)
                F.cross_entropy(pruned(images)[-1], labels).backward()
        pruner.step()
        if count_macs(module, image_shape) <= max_macs:
            pruned.zero_grad(set_to_none=True)
            return pruned
    return None


def fine_tune(network: Network, recipe: Recipe, loader: TrainLoader, lr: float, seconds: float) -> int:
    """Trains main in place with SGD and one cycle of the learning rate; returns the steps that were done.

    Args:
        network: Of one group. It is left in eval mode.
        recipe: Its momentum, weight decay, precision and memory format are taken.
        loader: Its batches, from the first one.
        lr: Highest learning rate.
        seconds: Of `clock`; at their end the learning rate is zero.
    """
    train = recipe.train.model_copy(update={"method": "backprop", "optimizer": "sgd", "lr": lr})
    recipe = recipe.model_copy(update={"train": train})
    memory_format = torch.channels_last if train.channels_last else torch.contiguous_format
    network.to(memory_format=memory_format).train()
    keep_freed_memory()
    optimizers = build_optimizers(recipe, network)
    step = build_step(
        build_method(recipe, network), optimizers, torch.device("cpu"), bf16=train.precision == "bf16", cuda_graph=False
    )
    started, done = clock(), 0
    while (share := (clock() - started) / seconds) < 1:
        rate = lr * lr_factor("one_cycle", int(share * TICKS), TICKS, (), train.warmup)
        for group in optimizers[0].param_groups:
            group["lr"] = rate
        step(*loader.batch(done), done)
        done += 1
    network.eval()
    return done
