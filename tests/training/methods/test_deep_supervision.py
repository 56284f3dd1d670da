"""Joint training of all exits, worked out by hand."""

import math

import pytest
import torch
from torch import nn

from lcprune.models import Network
from lcprune.training.methods.deep_supervision import DeepSupervision

LN3 = math.log(3)


def test_a_case_worked_out_by_hand() -> None:
    # One pixel of 1, label 0. The critic gives p(0) = 3/4 and main p(0) = 1/4; the critic's loss weighs 1/2.
    group, critic, main = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        group.weight.fill_(1.0)
        critic.weight.copy_(torch.tensor([[LN3], [0.0]]))
        main.weight.copy_(torch.tensor([[0.0], [LN3]]))
    network = Network(nn.Identity(), [group, nn.Sequential(nn.Flatten(), main)], [nn.Sequential(nn.Flatten(), critic)])
    method = DeepSupervision(network, weight=0.5, label_smoothing=0.0)
    losses = method.backward(torch.ones(1, 1, 1, 1), torch.tensor([0]), 0)
    assert main.weight.grad.flatten().tolist() == pytest.approx([-0.75, 0.75])
    assert critic.weight.grad.flatten().tolist() == pytest.approx([-0.125, 0.125])  # half of p - target
    assert group.weight.grad.item() == pytest.approx(0.75 * LN3 - 0.125 * LN3)  # from main and from the critic
    assert losses.exits.tolist() == pytest.approx([math.log(4 / 3), math.log(4)])  # without the weight
    assert losses.critics.tolist() == pytest.approx([math.log(4 / 3)])
    assert not losses.exits.requires_grad


def test_gradients_are_those_of_the_weighted_sum_in_float64() -> None:
    torch.manual_seed(0)
    groups = [
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh()),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh()),
        nn.Sequential(nn.Flatten(), nn.Linear(12, 5)),
    ]
    critics = [nn.Sequential(nn.Flatten(), nn.Linear(12, 5)) for _ in range(2)]
    network = Network(nn.Identity(), groups, critics).double()
    images, labels = torch.rand(6, 2, 4, 4).double(), torch.arange(6) % 5
    first, second, main = (
        nn.functional.cross_entropy(logits, labels, label_smoothing=0.1) for logits in network(images)
    )
    expected = torch.autograd.grad(main + 0.3 * first + 0.3 * second, list(network.parameters()))
    DeepSupervision(network, weight=0.3, label_smoothing=0.1).backward(images, labels, 0)
    for parameter, grad in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-12, atol=0)


def test_without_critics_it_is_backpropagation() -> None:
    network = Network(nn.Identity(), [nn.Sequential(nn.Flatten(), nn.Linear(4, 3))], [])
    losses = DeepSupervision(network, weight=1.0, label_smoothing=0.0).backward(
        torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), 0
    )
    assert (losses.exits.shape, losses.critics.shape) == ((1,), (0,))
    assert network.groups[0][1].weight.grad is not None
