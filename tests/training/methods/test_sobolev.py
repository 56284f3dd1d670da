"""Losses and derivatives matched, by hand and against plain autograd."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lcprune.models import Network
from lcprune.paper.methods.sobolev import Sobolev
from lcprune.training.methods.critic_loss import CriticLoss
from lcprune.training.methods.local_critic import LocalCritic

Trunk = Callable[..., tuple[Network, Tensor, Tensor]]

TARGETS = ("next", "main")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def scalars(w1: float, w2: float, w3: float, a1: float, a2: float, a3: float) -> Network:
    """h_i = w_i * h_{i-1}; exit i has the logits (a_i * h_i, 0)."""
    groups = [nn.Conv2d(1, 1, 1, bias=False) for _ in range(3)]
    readers = [nn.Linear(1, 2, bias=False) for _ in range(3)]
    with torch.no_grad():
        for layer, weight in zip(groups, (w1, w2, w3), strict=True):
            layer.weight.fill_(weight)
        for layer, weight in zip(readers, (a1, a2, a3), strict=True):
            layer.weight.copy_(torch.tensor([[weight], [0.0]]))
    last = nn.Sequential(groups[2], nn.Flatten(), readers[2])
    critics = [nn.Sequential(nn.Flatten(), reader) for reader in readers[:2]]
    return Network(nn.Identity(), [*groups[:2], last], critics).double()


@pytest.mark.parametrize("target", TARGETS)
def test_a_chain_of_scalars_worked_out_by_hand(target: str) -> None:
    w1, w2, w3, a1, a2, a3, weight = 1.5, 0.5, 2.0, 0.75, 1.25, 0.5, 0.25  # exact in float32
    network = scalars(w1, w2, w3, a1, a2, a3)
    losses = Sobolev(network, CriticLoss(), target=target, weight=weight).backward(
        torch.ones(1, 1, 1, 1).double(), torch.tensor([0]), 0
    )
    h1, h2, h3 = w1, w1 * w2, w1 * w2 * w3
    # with logits (a h, 0) and label 0: L = ln(1 + e^-ah), dL/dh = -a * miss, with miss = 1 - sigmoid(ah)
    miss1, miss2, miss3 = 1 - sigmoid(a1 * h1), 1 - sigmoid(a2 * h2), 1 - sigmoid(a3 * h3)
    loss1, loss2, loss3 = -math.log(1 - miss1), -math.log(1 - miss2), -math.log(1 - miss3)
    slope2 = -a3 * miss3 * w3  # of main at h_2, through group 3
    slope1 = -a2 * miss2 * w2 if target == "next" else slope2 * w2  # at h_1: of critic 2, or of main
    held = loss2 if target == "next" else loss3
    own1, own2 = -a1 * miss1, -a2 * miss2
    assert losses.exits.tolist() == pytest.approx([loss1, loss2, loss3])
    assert losses.critics.tolist() == pytest.approx(
        [abs(loss1 - held) + weight * abs(own1 - slope1), abs(loss2 - loss3) + weight * abs(own2 - slope2)]
    )
    # the critic's first weight a: dL/da = -h * miss; d(-a * miss)/da = -miss + a * h * miss * (1 - miss), as
    # d miss/da = -h * miss * (1 - miss). Two classes share the logits, so that the second weight has the negative.
    for critic, a, h, miss, gap, slope in (
        (network.critics[0], a1, h1, miss1, loss1 - held, own1 - slope1),
        (network.critics[1], a2, h2, miss2, loss2 - loss3, own2 - slope2),
    ):
        first = math.copysign(1, gap) * -h * miss
        second = math.copysign(1, slope) * (-miss + a * h * miss * (1 - miss))
        expected = first + weight * second
        assert critic[1].weight.grad.flatten().tolist() == pytest.approx([expected, -expected])
    assert network.groups[0].weight.grad.item() == pytest.approx(own1)  # x = 1; of its own critic alone
    assert network.groups[1].weight.grad.item() == pytest.approx(own2 * h1)
    assert network.groups[2][0].weight.grad.item() == pytest.approx(-a3 * miss3 * h2)


def naive_critic_gradients(
    network: Network, loss: CriticLoss, target: str, weight: float, images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Gradients of every critic. Each derivative comes from a forward pass of its own."""

    def losses_from(index: int, hidden: Tensor, exit_index: int) -> Tensor:
        """Loss of each sample at an exit, from the hidden layer of another one."""
        for group in network.groups[index + 1 : exit_index + 1]:
            hidden = group(hidden)
        logits = hidden if exit_index == 3 else network.critics[exit_index](hidden)
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    hidden, grads = network.normalize(images), {}
    for index, critic in enumerate(network.critics):
        hidden = network.groups[index](hidden).detach().requires_grad_()
        exit_index = index + 1 if target == "next" else 3
        goal = losses_from(index, hidden, exit_index)
        own = losses_from(index, hidden, index)
        (wanted,) = torch.autograd.grad(goal.mean() * len(images), hidden)
        (slope,) = torch.autograd.grad(own.mean() * len(images), hidden, create_graph=True)
        norms = (slope - wanted).flatten(1).abs().sum(dim=1)  # of each sample
        gap = (own - goal.detach()).abs().mean()
        values = loss.cascade_share * gap + (1 - loss.cascade_share) * own.mean() + weight * norms.mean()
        for name, parameter in critic.named_parameters():
            (grads[f"critics.{index}.{name}"],) = torch.autograd.grad(values, parameter, retain_graph=True)
    return grads


@pytest.mark.parametrize("loss", [CriticLoss(), CriticLoss("mix", 0.3)], ids=str)
@pytest.mark.parametrize(
    "overrides",
    [(), ("critics.head=pooled", "critics.pool_to=1", "critics.depth=2"), ("critics.batch_norm=true",)],
    ids=["paper", "pooled", "batch_norm"],
)
@pytest.mark.parametrize("target", TARGETS)
def test_critics_gradients_are_those_of_plain_autograd(
    trunk: Trunk, target: str, overrides: tuple[str, ...], loss: CriticLoss
) -> None:
    network, images, labels = trunk(*overrides)
    expected = naive_critic_gradients(network, loss, target, 0.7, images, labels)
    Sobolev(network, loss, target=target, weight=0.7).backward(images, labels, 0)
    for name, parameter in network.critics.named_parameters(prefix="critics"):
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("target", TARGETS)
def test_groups_learn_as_without_derivatives(trunk: Trunk, target: str) -> None:
    network, images, labels = trunk()
    Sobolev(network, CriticLoss(), target=target).backward(images, labels, 0)
    found = {name: parameter.grad.clone() for name, parameter in network.groups.named_parameters()}
    network.zero_grad(set_to_none=True)
    plain = partial(LocalCritic, target=target)
    plain(network, CriticLoss()).backward(images, labels, 0)
    for name, parameter in network.groups.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("target", TARGETS)
def test_critics_rest_between_their_steps(trunk: Trunk, target: str) -> None:
    network, images, labels = trunk()
    method = Sobolev(network, CriticLoss(), target=target, update_every=2)
    learning = method.backward(images, labels, 0)
    network.zero_grad(set_to_none=True)
    resting = method.backward(images, labels, 1)
    assert [parameter.grad for parameter in network.critics.parameters() if parameter.grad is not None] == []
    assert all(parameter.grad is not None for parameter in network.groups.parameters())
    torch.testing.assert_close(resting.critics, learning.critics)


@pytest.mark.parametrize(("target", "compiled"), [("next", [0, 1, 2, 3]), ("main", [0, 3])])
def test_what_two_derivatives_go_through_is_not_compiled(trunk: Trunk, target: str, compiled: list[int]) -> None:
    network, _, _ = trunk()
    parts = list(Sobolev(network, CriticLoss(), target=target).parts())
    assert list(map(id, parts)) == [id(network.groups[index]) for index in compiled]


@pytest.mark.parametrize("target", TARGETS)
def test_autocast_leaves_losses_in_float32(trunk: Trunk, target: str) -> None:
    network, images, labels = trunk()
    with torch.autocast("cpu", torch.bfloat16):
        losses = Sobolev(network.float(), CriticLoss(), target=target).backward(images.float(), labels, 0)
    assert losses.exits.dtype == losses.critics.dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
