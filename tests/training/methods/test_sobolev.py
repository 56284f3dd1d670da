"""Losses and derivatives matched, against plain autograd."""

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


def naive_critic_gradients(
    network: Network, loss: CriticLoss, target: str, weight: float, images: Tensor, labels: Tensor
) -> tuple[dict[str, Tensor], list[float]]:
    """Gradients and losses of every critic. Each derivative comes from a forward pass of its own."""

    def losses_from(index: int, hidden: Tensor, exit_index: int) -> Tensor:
        """Loss of each sample at an exit, from the hidden layer of another one."""
        for group in network.groups[index + 1 : exit_index + 1]:
            hidden = group(hidden)
        logits = hidden if exit_index == 3 else network.critics[exit_index](hidden)
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    hidden, grads, losses = network.normalize(images), {}, []
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
        losses.append(values.item())
        for name, parameter in critic.named_parameters():
            (grads[f"critics.{index}.{name}"],) = torch.autograd.grad(values, parameter, retain_graph=True)
    return grads, losses


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
    expected, losses = naive_critic_gradients(network, loss, target, 0.7, images, labels)
    found = Sobolev(network, loss, target=target, weight=0.7).backward(images, labels, 0)
    assert found.critics.tolist() == pytest.approx(losses)
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
