"""Backpropagation, worked out by hand."""

import math

import pytest
import torch
from torch import nn

from lcprune.models import Network
from lcprune.training.methods.deep_supervision import DeepSupervision


def network_of_one_pixel() -> tuple[Network, nn.Conv2d, nn.Linear]:
    """A convolution multiplies the pixel by 2; for a pixel of 1/2 main gives p(0) = 1/4."""
    first, main = nn.Conv2d(1, 1, 1, bias=False), nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        first.weight.fill_(2.0)
        main.weight.copy_(torch.tensor([[0.0], [math.log(3)]]))
    return Network(nn.Identity(), [nn.Sequential(first, nn.Flatten(), main)], []), first, main


def test_a_case_worked_out_by_hand() -> None:
    network, first, main = network_of_one_pixel()
    losses = DeepSupervision(network, (), 0.0).backward(torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), 0)
    # p - target = (-3/4, 3/4); times the hidden value 1 for main, times main's weights (0, ln 3) and the pixel below
    assert main.weight.grad.flatten().tolist() == pytest.approx([-0.75, 0.75])
    assert first.weight.grad.item() == pytest.approx(0.75 * math.log(3) * 0.5)
    assert losses.exits.tolist() == pytest.approx([math.log(4)])
    assert losses.critics.shape == (0,)
    assert not losses.exits.requires_grad


def test_the_loss_is_the_mean_over_the_batch() -> None:
    network, _, main = network_of_one_pixel()
    losses = DeepSupervision(network, (), 0.0).backward(torch.full((2, 1, 1, 1), 0.5), torch.tensor([0, 1]), 0)
    assert main.weight.grad.flatten().tolist() == pytest.approx([-0.25, 0.25])  # mean of (-3/4, 3/4) and (1/4, -1/4)
    assert losses.exits.tolist() == pytest.approx([(math.log(4) + math.log(4 / 3)) / 2])


def test_label_smoothing_moves_the_target() -> None:
    network, _, main = network_of_one_pixel()
    DeepSupervision(network, (), 0.2).backward(torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), 0)
    assert main.weight.grad.flatten().tolist() == pytest.approx([0.25 - 0.9, 0.75 - 0.1])


def test_gradients_are_those_of_autograd_in_float64() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 5))
    network = Network(nn.Identity(), [layers], []).double()
    images, labels = torch.rand(6, 2, 4, 4).double(), torch.arange(6) % 5
    parameters = list(network.groups.parameters())
    loss = nn.functional.cross_entropy(network(images)[-1], labels)
    expected = torch.autograd.grad(loss, parameters)
    DeepSupervision(network, (), 0.0).backward(images, labels, 0)
    for parameter, grad in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-12, atol=0)
