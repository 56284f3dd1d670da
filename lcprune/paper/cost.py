"""The costs of the sub-models: parameters, the paper's "FLOP", and MACs (Table 5)."""

from torch import nn

from lcprune import models
from lcprune.analysis.cost import NetworkCost
from lcprune.analysis.counting import count_cost
from lcprune.recipe import Recipe

NOTE = (
    "The paper's FLOP is 2 x the number of weights of the convolutions and linear layers (without biases and "
    "BatchNorm), as if every weight were used once. A convolution uses each of its weights at every pixel: MACs count "
    "that (multiply-adds of one 32x32 image). So sub-model 1 costs 36 % of main's work, not 18 %."
)


def costs(recipe: Recipe, classes: int, image_shape: tuple[int, int, int]) -> tuple[NetworkCost, tuple[int, ...]]:
    """Costs of the recipe's untrained network for images of ``(C, H, W)``, and the paper's FLOP of its sub-models."""
    ones = (1.0,) * image_shape[0]
    network = models.build(recipe, classes, image_shape, ones, ones)
    flops = tuple(paper_flop(network.submodel(k)) for k in range(1, len(network.groups) + 1))
    return count_cost(network, image_shape), flops


def paper_flop(module: nn.Module) -> int:
    """What Table 5 calls FLOP: 2 x the weights of convolutions and linear layers, not the work that they do."""
    return sum(2 * layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
