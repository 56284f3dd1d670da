"""Which weights decay, and the learning rate of every step."""

from typing import Any

import pytest
from torch import nn
from torch.optim import SGD, Adam, AdamW

from lcprune import models
from lcprune import recipe as recipes
from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.training.optim import build_optimizers, lr_factor, set_learning_rates


def digits(*overrides: str) -> tuple[Recipe, Network]:
    recipe = recipes.load("digits", ["model.width=0.0625", "critics.channels=8", *overrides])
    return recipe, models.build(recipe, 10, (1, 8, 8), (0.5,), (0.5,))


def names(network: Network, group: dict[str, Any]) -> set[str]:
    wanted = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in network.named_parameters() if id(parameter) in wanted}


def test_only_the_weights_of_the_trunks_convolutions_and_linear_layers_decay() -> None:
    recipe, network = digits("critics.batch_norm=true")
    trunk, critics = build_optimizers(recipe, network)
    modules = dict(network.named_modules())
    layers = [name for name, module in modules.items() if isinstance(module, nn.Conv2d | nn.Linear)]
    decaying = {f"{name}.weight" for name in layers if name.startswith("groups.")}
    weights, others = trunk.param_groups
    assert names(network, weights) == decaying
    assert (weights["weight_decay"], others["weight_decay"]) == (5e-4, 0)
    assert names(network, weights) | names(network, others) == {
        name for name, _ in network.named_parameters() if name.startswith("groups.")
    }
    assert all(
        modules[name.rpartition(".")[0]].weight.ndim == 1 for name in names(network, others) if "bias" not in name
    )
    (sides,) = critics.param_groups
    assert names(network, sides) == {name for name, _ in network.named_parameters() if name.startswith("critics.")}
    assert sides["weight_decay"] == 0


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adam", Adam), ("adamw", AdamW)])
def test_the_optimizers_that_a_recipe_names(name: str, kind: type) -> None:
    recipe, network = digits(f"train.optimizer={name}", f"critics.optimizer={name}", "train.momentum=0.8")
    optimizers = build_optimizers(recipe, network)
    assert [type(optimizer) for optimizer in optimizers] == [kind, kind]
    if kind is SGD:
        assert optimizers[0].defaults["momentum"] == 0.8
        assert optimizers[0].defaults["nesterov"]
    if kind is AdamW:
        groups = (optimizers[0].param_groups[1], optimizers[1].param_groups[0])
        assert [group["weight_decay"] for group in groups] == [0, 0]  # its own default would be 0.01


@pytest.mark.parametrize(
    ("drops", "iterations", "first_steps"),
    [
        ((0.5, 0.75), 80_000, (40_000, 60_000)),
        ((0.55,), 100, (55,)),  # in floats 0.55 * 100 is over 55
        ((0.07, 0.29), 100, (7, 29)),  # and 0.29 * 100 under 29
        ((0.5,), 5, (3,)),  # the first step after the middle
        ((0.5, 0.5), 10, (5, 5)),
    ],
)
def test_steps_drop_where_the_recipe_says(
    drops: tuple[float, ...], iterations: int, first_steps: tuple[int, ...]
) -> None:
    for step in {0, iterations - 1, *(first + shift for first in first_steps for shift in (-1, 0, 1))}:
        passed = sum(step >= first for first in first_steps)
        assert lr_factor("step", step, iterations, drops, 0.25) == pytest.approx(10.0**-passed)


def test_one_cycle_rises_and_falls_in_straight_lines() -> None:
    factors = [lr_factor("one_cycle", step, 8, (), 0.25) for step in range(8)]
    # The middles of the steps are at 1/16, 3/16, .. 15/16 of the run; the top is at 4/16.
    assert factors == pytest.approx([1 / 4, 3 / 4, 11 / 12, 9 / 12, 7 / 12, 5 / 12, 3 / 12, 1 / 12])


def test_every_optimizer_gets_the_rate_of_its_schedule() -> None:
    recipe, network = digits(
        "train.schedule=step", "train.lr_drops=[0.5]", "train.lr=0.1", "critics.schedule=constant", "critics.lr=0.002"
    )
    optimizers = build_optimizers(recipe, network)
    assert set_learning_rates(recipe, optimizers, 4, 10) == pytest.approx(0.1)
    assert set_learning_rates(recipe, optimizers, 5, 10) == pytest.approx(0.01)
    assert [group["lr"] for group in optimizers[0].param_groups] == pytest.approx([0.01, 0.01])
    assert [group["lr"] for group in optimizers[1].param_groups] == [0.002]
