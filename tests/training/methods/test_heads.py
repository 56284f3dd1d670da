"""Every critic head learns with every method, whatever it is made of."""

import pytest
import torch
from torch import Tensor

from lcprune import recipe
from lcprune.models import Network, build
from lcprune.recipe import Recipe
from lcprune.training.methods import build_method

HEADS = ("paper", "pooled", "global", "separable", "strided")


def small(head: str, *overrides: str) -> Recipe:
    """Three exits on 8x8 images."""
    shape = ["model.width=0.06", "critics.after=[2, 5]", "critics.channels=[3, 4]", "critics.pool_to=[4, 2]"]
    return recipe.load("vgg_cifar10", [*shape, f"critics.head={head}", *overrides])


def network_of(loaded: Recipe) -> Network:
    network = build(loaded, 5, (3, 8, 8), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)).double().train()
    return network.to(memory_format=torch.channels_last)


def gradients(loaded: Recipe) -> list[Tensor]:
    network = network_of(loaded)
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(6, 3, 8, 8, generator=generator, dtype=torch.float64)
    build_method(loaded, network).backward(images, torch.arange(6) % 5, 0)
    found = [parameter.grad for parameter in network.parameters()]
    assert all(grad is not None and bool(grad.any()) for grad in found)
    return [grad for grad in found if grad is not None]


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("head", HEADS)
def test_one_backward_pass_of_local_critic_is_as_good_as_two(head: str, depth: int) -> None:
    lean = gradients(small(head, f"critics.depth={depth}", "train.memory=lean"))
    fast = gradients(small(head, f"critics.depth={depth}", "train.memory=fast"))
    for one, two in zip(fast, lean, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_all_weights_of_a_head_learn_jointly_with_batch_norm_and_distillation(head: str) -> None:
    # BatchNorm makes the biases before it idle, so that heads have none there: no gradient may be zero
    assert gradients(small(head, "train.method=deep_supervision", "critics.batch_norm=true", "critics.distill=0.5"))
