"""Layers with gradients of their own: the values are torch's, the memory format is that of the input."""

import pytest
import torch
from torch import Tensor, nn

from lcprune.models.layers import AveragePool, Flatten

FORMATS = [torch.contiguous_format, torch.channels_last]
SHAPES = [(2, 3, 8, 8), (2, 3, 8, 4), (1, 1, 4, 8), (2, 5, 16, 8)]


def both(layer: nn.Module, reference: nn.Module, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradient of a layer and of torch's, for the same input."""
    results = []
    for module in (layer, reference):
        leaf = images.clone().requires_grad_()
        output = module.train()(leaf)
        upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=images.dtype)
        (gradient,) = torch.autograd.grad(output, leaf, upstream)
        results.append([output, gradient])
    return results[0], results[1]


def noise(shape: tuple[int, ...], memory_format: torch.memory_format) -> Tensor:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [(2, 2), (4, 2), (1, 4)])
def test_the_pool_is_torchs_to_the_bit_and_keeps_the_format(
    shape: tuple[int, ...], window: tuple[int, int], memory_format: torch.memory_format
) -> None:
    images = noise(shape, memory_format)
    found, expected = both(AveragePool(window), nn.AvgPool2d(window), images)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert found[1].is_contiguous(memory_format=memory_format)


def test_the_pool_of_no_images() -> None:
    found, _ = both(AveragePool((2, 2)), nn.AvgPool2d((2, 2)), torch.zeros(0, 3, 4, 4))
    assert found[1].shape == (0, 3, 4, 4)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_flatten_is_torchs_to_the_bit_and_keeps_the_format(memory_format: torch.memory_format) -> None:
    images = noise((2, 3, 4, 4), memory_format)
    found, expected = both(Flatten(), nn.Flatten(), images)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert found[1].is_contiguous(memory_format=memory_format)


def test_the_pool_keeps_nothing_of_its_input() -> None:
    kept: list[Tensor] = []
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        AveragePool((2, 2))(images)
        assert kept == []
        nn.AvgPool2d(2)(images)
        assert len(kept) == 1


@pytest.mark.parametrize("layer", [AveragePool((2, 2)), Flatten()])
def test_in_eval_mode_they_are_torchs_own(layer: nn.Module) -> None:
    output = layer.eval()(torch.randn(1, 3, 4, 4, requires_grad=True).contiguous(memory_format=torch.channels_last))
    assert "ChannelsLast" not in output.grad_fn.name()
    assert "_AveragePool" not in output.grad_fn.name()
