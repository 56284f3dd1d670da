"""Optimizers, and the learning rate as a pure function of the step."""

from bisect import bisect_right
from collections.abc import Sequence

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.training.freezing import frozen_parameters

SCALE = "lr_scale"
"""Key of an optimizer's parameter group: its learning rate, as a fraction of the backbone's."""


def build_optimizers(recipe: Recipe, network: Network) -> tuple[Optimizer, ...]:
    """The backbone's optimizer and, if there are any, that of critics or of modules that predict gradients.

    Weight decay applies to the weights of the backbone's convolutions and linear layers: not to BatchNorm, biases or
    critics. Frozen weights have no optimizer.
    """
    train, critics = recipe.train, recipe.critics
    parts: Sequence[nn.Module] = (network.groups,) if train.layer_decay == 1 else network.parts
    frozen = frozen_parameters(recipe, network)
    groups: list[dict[str, object]] = []
    for index, part in enumerate(parts):
        trained = [p for p in part.parameters() if p.requires_grad and id(p) not in frozen]
        decayed = _decayed(part)
        scale = train.layer_decay ** (len(parts) - 1 - index)
        for decay, is_decayed in ((train.weight_decay, True), (0.0, False)):
            params = [p for p in trained if (id(p) in decayed) == is_decayed]
            groups.append({"params": params, "weight_decay": decay} | ({SCALE: scale} if scale != 1 else {}))
    trunk = _optimizer(train.optimizer, groups, train.lr, train.momentum, train.nesterov)
    beside = [*network.critics.parameters(), *network.synthesizers.parameters()]
    if not beside:
        return (trunk,)
    sides = [{"params": beside, "weight_decay": 0.0}]
    return trunk, _optimizer(critics.optimizer, sides, critics.lr, train.momentum, train.nesterov)


def _decayed(part: nn.Module) -> set[int]:
    """Identities of the weights with weight decay."""
    layers = [m for m in part.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    return {id(layer.weight) for layer in layers}


def set_learning_rates(
    recipe: Recipe, optimizers: tuple[Optimizer, ...], step: int, iterations: int, factor: float = 1.0
) -> float:
    """Sets the learning rates for `step` (from 0) of `iterations`, times `factor`; returns that of the backbone."""
    train, critics = recipe.train, recipe.critics
    rates = (
        train.lr * lr_factor(train.schedule, step, iterations, train.lr_drops, train.warmup),
        critics.lr * lr_factor(critics.schedule, step, iterations, train.lr_drops, train.warmup),
    )
    for optimizer, rate in zip(optimizers, rates, strict=False):  # backprop has no critics
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get(SCALE, 1.0) * factor
    return rates[0] * factor


def lr_factor(schedule: str, step: int, iterations: int, lr_drops: tuple[float, ...], warmup: float) -> float:
    """The learning rate of a step (from 0), as a fraction of the highest one.

    ``step`` divides by 10 at each of `lr_drops`, fractions of the run. ``one_cycle`` rises linearly over the fraction
    `warmup` and falls linearly to zero.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        drops = [round(drop * iterations, 6) for drop in lr_drops]  # in floating point 0.55 * 100 is over 55
        return float(0.1 ** bisect_right(drops, step))
    done = (step + 0.5) / iterations  # the middle of the step, so that no step has a rate of zero
    return done / warmup if done < warmup else (1 - done) / (1 - warmup)


def _optimizer(name: str, groups: list[dict[str, object]], lr: float, momentum: float, nesterov: bool) -> Optimizer:
    # "fused" is one pass over the weights on CPU and GPU alike; MPS has it too.
    if name == "sgd":
        return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, fused=True)
    if name == "adam":
        return Adam(groups, lr=lr, fused=True)
    return AdamW(groups, lr=lr, fused=True)
