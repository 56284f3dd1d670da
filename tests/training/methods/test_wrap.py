"""What is put around the parts of a method is called wherever they learn, and nowhere else."""

from typing import Any

import pytest
import torch
from torch import nn

from lcprune import recipe
from lcprune.models import build
from lcprune.training.freezing import hold_frozen
from lcprune.training.methods import build_method

METHODS = ("backprop", "deep_supervision", "local_critic", "critic", "sobolev_local_critic", "sobolev_critic", "dni")


class Counted(nn.Module):
    """Counts the calls of a part."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.calls = 0

    def forward(self, *inputs: Any) -> Any:
        self.calls += 1
        return self.part(*inputs)


@pytest.mark.parametrize("method", METHODS)
def test_every_part_that_learns_is_called_through_its_wrap(method: str) -> None:
    loaded = recipe.load("digits", [f"train.method={method}", "critics.update_every=2", "critics.head=pooled"])
    network = build(loaded, 10, (1, 8, 8), (0.5,), (0.5,))
    wraps: list[Counted] = []

    def wrap(part: nn.Module) -> nn.Module:
        wraps.append(Counted(part))
        return wraps[-1]

    built = build_method(loaded, network, wrap=wrap)
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    built.backward(images, labels, step=0)
    assert [one.calls for one in wraps] == [1] * len(wraps)
    inside = [weight for one in wraps for weight in one.part.parameters()]
    assert {id(weight) for weight in inside} == {id(weight) for weight in network.parameters()}
    assert len(inside) == len(list(network.parameters()))  # none in two of them
    assert all(weight.grad is not None for weight in inside)
    built.backward(images, labels, step=1)  # critics rest, where there are any that can
    beside = {id(weight) for weight in (*network.critics.parameters(), *network.synthesizers.parameters())}
    rests = method not in ("backprop", "deep_supervision")
    for one in wraps:
        is_beside = all(id(weight) in beside for weight in one.part.parameters())
        assert one.calls == (1 if is_beside and rests else 2)
    assert not any(isinstance(part, Counted) for whole in built.parts() for part in whole.modules())


def test_what_is_frozen_for_good_says_so_before_it_is_wrapped() -> None:
    loaded = recipe.load("digits", ["train.freeze=[2]"])
    network = build(loaded, 10, (1, 8, 8), (0.5,), (0.5,))
    seen: list[bool] = []

    def wrap(part: nn.Module) -> nn.Module:
        seen.append(any(weight.requires_grad for weight in part.parameters()))
        return part

    build_method(loaded, network, wrap=wrap)
    assert seen.count(False) == 1
    assert not any(weight.requires_grad for weight in network.groups[1].parameters())
    hold_frozen(recipe.load("digits", ["train.freeze=0"]), network)  # gives nothing back
    assert not any(weight.requires_grad for weight in network.groups[1].parameters())
