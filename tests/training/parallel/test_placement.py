"""How layer groups are divided over processes."""

import pytest
import torch

from lcprune import recipe as recipes
from lcprune.errors import SetupError
from lcprune.models import build
from lcprune.training.parallel.placement import balanced, given, measured_costs_s


def test_the_costliest_process_costs_least() -> None:
    assert balanced([1, 1, 1, 3], 2) == (range(3), range(3, 4))
    assert balanced([3, 1, 1, 1], 2) == (range(1), range(1, 4))
    assert balanced([2, 3, 1, 2], 3) == (range(1), range(1, 2), range(2, 4))
    assert balanced([5, 1, 1], 1) == (range(3),)
    assert balanced([0, 0, 0], 3) == (range(1), range(1, 2), range(2, 3))


def test_what_a_user_asks_for() -> None:
    assert given((1, 3), 4, 2) == (range(1), range(1, 4))
    for counts, stages in (((1, 2), 2), ((4,), 2), ((0, 4), 2), ((2, 2), 3)):
        with pytest.raises(SetupError, match=f"does not divide 4 layer groups over {stages} processes"):
            given(counts, 4, stages)


def test_costs_are_measured_and_nothing_is_changed() -> None:
    loaded = recipes.load("digits", ["model.width=0.0625", "critics.channels=4"])
    network = build(loaded, 10, (1, 8, 8), (0.5,), (0.25,))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    costs = measured_costs_s(network, torch.rand(4, 1, 8, 8))
    assert len(costs) == 4
    assert min(costs) > 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(weight.grad is None for weight in network.parameters())
