"""Modules that predict gradients: what they are made of, and what they read."""

import torch
from torch import nn

from lcprune.models.critics import CriticDesign
from lcprune.models.synthesizers import Synthesizer

SHAPE = (3, 5, 4)


def design(depth: int = 1, *, kernel: int = 3, batch_norm: bool = False) -> CriticDesign:
    return CriticDesign("paper", depth, channels=8, kernel=kernel, batch_norm=batch_norm)


def kinds(module: nn.Module) -> list[type]:
    return [type(layer) for layer in module.modules() if not isinstance(layer, Synthesizer | nn.Sequential)]


def test_it_is_convolutions_and_an_output_layer_of_the_hidden_layers_shape() -> None:
    module = Synthesizer(SHAPE, design(2), 0)
    assert kinds(module) == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert module(torch.rand(2, *SHAPE), torch.tensor([0, 1])).shape == (2, *SHAPE)
    # 3x3 weights and biases: 3 to 8, 8 to 8, and 8 to 3 channels
    assert sum(weight.numel() for weight in module.parameters()) == 9 * (24 + 64 + 24) + 8 + 8 + 3


def test_batch_norm_and_kernel_are_those_of_the_design() -> None:
    module = Synthesizer(SHAPE, design(kernel=1, batch_norm=True), 0)
    assert kinds(module) == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d]
    assert module.hidden[0].kernel_size == (1, 1)
    assert module.hidden[0].bias is None
    assert module(torch.rand(2, *SHAPE), torch.tensor([0, 1])).shape == (2, *SHAPE)


def test_a_label_is_a_map_of_ones_beside_the_channels() -> None:
    module = Synthesizer(SHAPE, design(0), 4)
    assert kinds(module) == [nn.Conv2d]  # without convolutions the output layer reads the hidden layer
    hidden = torch.rand(2, *SHAPE)
    maps = torch.zeros(2, 4, 5, 4)
    maps[0, 3], maps[1, 1] = 1, 1
    expected = module.output(torch.cat([hidden, maps], dim=1))
    assert torch.equal(module(hidden, torch.tensor([3, 1])), expected)


def test_a_silent_module_predicts_nothing_and_can_learn() -> None:
    module = Synthesizer(SHAPE, design(), 0)
    module.silence()
    predicted = module(torch.rand(2, *SHAPE), torch.tensor([0, 1]))
    assert torch.equal(predicted, torch.zeros(2, *SHAPE))
    (predicted - 1).square().sum().backward()
    assert bool(module.output.weight.grad.any())
