"""Where a number is no longer finite."""

import math

import pytest
import torch
from torch import nn

from lcprune.models import Network
from lcprune.training.finite import first_not_finite, loss_not_finite, part_of


def network() -> Network:
    return Network(nn.Identity(), [nn.Linear(2, 3), nn.BatchNorm1d(3)], [nn.Linear(3, 2)])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_shallowest_weight_is_named(value: float) -> None:
    net = network()
    assert first_not_finite(net) is None
    with torch.no_grad():
        net.groups[1].running_var[2] = value
    assert first_not_finite(net) == "the weight groups.1.running_var of layer group 2"
    with torch.no_grad():
        net.groups[0].bias[1] = value
    assert first_not_finite(net) == "the weight groups.0.bias of layer group 1"


def test_a_gradient_is_named() -> None:
    net = network()
    net.critics[0].weight.grad = torch.full((2, 3), math.inf)
    assert first_not_finite(net) == "the gradient of critics.0.weight in critic 1"


def test_the_first_loss_is_named() -> None:
    assert loss_not_finite([1.0, 2.0], [0.0]) is None
    assert loss_not_finite([1.0, math.nan, math.inf], [math.nan]) == "the loss of layer group 2 (sub-model 2)"
    assert loss_not_finite([1.0, math.inf], [math.nan]) == "the loss of layer group 2 (main)"
    assert loss_not_finite([1.0, 2.0, 3.0], [0.0, math.nan]) == "the loss of critic 2"
    at_sizes = loss_not_finite([1.0, math.nan, 1.0, 1.0], [0.0], sizes=(32, 64))
    assert at_sizes == "the loss of layer group 2 (main at 32 px)"


def test_parts_have_names() -> None:
    assert [
        part_of(name) for name in ("groups.0.1.weight", "critics.11.bias", "synthesizers.2.x", "normalize.mean")
    ] == [
        "layer group 1",
        "critic 12",
        "synthesizer 3",
        "the network",
    ]
