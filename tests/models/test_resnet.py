"""The trunks of Table 8."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcprune import recipe
from lcprune.analysis.counting import count_macs
from lcprune.errors import ModelError
from lcprune.models import Network, build
from lcprune.models.resnet import Bottleneck, build_resnet
from lcprune.models.trunk import Shape
from lcprune.training.methods import build_method

CIFAR = (3, 32, 32)
IMAGENET = (3, 224, 224)
STAGES = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


def params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def network_of(trunk: str, *overrides: str, image_shape: tuple[int, int, int] = CIFAR) -> Network:
    loaded = recipe.load(f"{trunk}_cifar10", overrides)
    return build(loaded, 10, image_shape, (0.5,) * 3, (0.25,) * 3)


def tiny_in_float64(*overrides: str) -> Network:
    """16 blocks of at most 16 channels, in training mode, with biases and BatchNorm that are not at rest."""
    small = ["model.width=0.03", "critics.channels=4", "train.init=kaiming"]
    network = network_of("resnet50", *small, *overrides, image_shape=(3, 8, 8)).double().train()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return network


def rows(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(size, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(10, (size,), generator=generator)


# Structure


@pytest.mark.parametrize(("trunk", "places"), [("resnet50", [3, 7, 13]), ("resnet101", [3, 7, 30])])
def test_without_places_groups_end_with_the_first_three_stages(trunk: str, places: list[int]) -> None:
    network = network_of(trunk, "critics.after=null", "model.width=0.02")
    blocks = [[part for part in group if isinstance(part, Bottleneck)] for group in network.groups]
    assert tuple(len(group) for group in blocks) == STAGES[trunk]
    assert [sum(STAGES[trunk][:k]) for k in (1, 2, 3)] == places
    for stage, group in enumerate(blocks):  # only the head of a stage changes the shape
        assert [block.residual[3].stride for block in group] == [(1 if stage == 0 else 2,) * 2] + [(1, 1)] * (
            len(group) - 1
        )
        assert [block.project is None for block in group] == [False] + [True] * (len(group) - 1)
    convolutions = [part for part in network.groups.modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == 1 + 3 * sum(STAGES[trunk]) + 4
    assert all(part.bias is None for part in convolutions)


def test_a_stem_without_activation_begins_and_an_activation_ends_the_trunk() -> None:
    groups, _ = build_resnet((3, 8, 8), 4, trunk="resnet50", width=0.1, cuts=(3, 7, 13))
    names = [[type(layer).__name__ for layer in group] for group in groups]
    head = ["BatchNorm2d", "ReLU", "AveragePool", "Flatten", "Linear"]
    assert names == [["Conv2d", *["Bottleneck"] * 3], ["Bottleneck"] * 4, ["Bottleneck"] * 6, ["Bottleneck"] * 3 + head]
    assert (groups[0][0].kernel_size, groups[0][0].stride, groups[0][0].out_channels) == ((3, 3), (1, 1), 6)


def test_params_and_macs_for_imagenet() -> None:
    """The convolutions are those of the ResNet that torchvision publishes, to the multiply-add."""
    (whole,), _ = build_resnet(IMAGENET, 1000, trunk="resnet50", width=1.0, cuts=())
    assert (params(whole), count_macs(whole, IMAGENET)) == (25_549_352, 4_089_184_256)
    (small,), _ = build_resnet(CIFAR, 10, trunk="resnet50", width=1.0, cuts=())
    assert params(whole) - params(small) == 64 * 3 * (49 - 9) + 2049 * (1000 - 10)


@pytest.mark.parametrize(
    ("image_shape", "stem", "expected"),
    [
        ((3, 224, 224), "auto", "imagenet"),
        ((3, 128, 128), "auto", "imagenet"),
        ((3, 128, 127), "auto", "small"),
        ((1, 9, 15), "auto", "small"),
        ((3, 33, 47), "imagenet", "imagenet"),
        ((3, 130, 130), "small", "small"),
    ],
)
def test_the_stem_suits_the_image_or_is_the_one_asked_for(image_shape: Shape, stem: str, expected: str) -> None:
    groups, shapes = build_resnet(image_shape, 7, trunk="resnet50", width=0.05, cuts=range(1, 16), stem=stem)
    first, second, *_ = groups[0]
    if expected == "small":
        assert (first.kernel_size, first.stride, type(second)) == ((3, 3), (1, 1), Bottleneck)
    else:
        assert (first.kernel_size, first.stride, first.padding, first.bias) == ((7, 7), (2, 2), (3, 3), None)
        assert (second.kernel_size, second.stride, second.padding) == (3, 2, 1)
    hidden = torch.zeros(2, *image_shape)
    for group, shape in zip(groups[:-1], shapes, strict=True):
        hidden = group.eval()(hidden)
        assert hidden.shape == (2, *shape)
    assert groups[-1].eval()(hidden).shape == (2, 7)
    assert shapes[0][1:] == tuple(side if expected == "small" else -(-side // 4) for side in image_shape[1:])


def test_the_stem_comes_from_the_recipe_and_trains_with_three_critics() -> None:
    overrides = ["model.stem=imagenet", "model.width=0.03", "critics.channels=4", "train.init=kaiming"]
    network = network_of("resnet50", *overrides, image_shape=(3, 64, 64))
    assert network.groups[0][0].kernel_size == (7, 7)
    loaded = recipe.load("resnet50_cifar10", overrides)
    losses = build_method(loaded, network.train()).backward(torch.rand(4, 3, 64, 64), torch.arange(4), step=0)
    assert losses.exits.shape == (4,)
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("size", "stem", "halvings", "least"),
    [((7, 8), "auto", 3, 8), ((8, 7), "auto", 3, 8), ((31, 32), "imagenet", 5, 32), ((32, 31), "imagenet", 5, 32)],
)
def test_an_image_that_cannot_be_halved_is_refused(size: tuple[int, int], stem: str, halvings: int, least: int) -> None:
    with pytest.raises(ModelError) as caught:
        build_resnet((3, *size), 10, trunk="resnet101", width=0.1, cuts=(), stem=stem)
    assert caught.value.problem == f"an image of {size[0]}x{size[1]} cannot be halved {halvings} times"
    assert caught.value.fix == f"the resnet101 backbone needs at least {least}x{least} pixels: raise data.image_size"


# What a block computes


def normalized(x: Tensor, norm: nn.Module) -> Tensor:
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / (var + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


def by_definition(block: Bottleneck, x: Tensor) -> Tensor:
    """He et al. 2016, Figure 1b, with three convolutions; nothing in it is in place."""
    first, middle_norm, _, middle, last_norm, _, last = block.residual
    activated = F.relu(normalized(x, block.activate[0]))
    inner = F.relu(normalized(F.conv2d(activated, first.weight), middle_norm))
    inner = F.relu(normalized(F.conv2d(inner, middle.weight, stride=middle.stride, padding=1), last_norm))
    shortcut = x if block.project is None else F.conv2d(activated, block.project.weight, stride=middle.stride)
    return F.conv2d(inner, last.weight) + shortcut


@pytest.mark.parametrize(("inputs", "stride"), [(8, 1), (6, 1), (8, 2)])
def test_a_block_is_that_of_the_definition_and_so_are_its_gradients(inputs: int, stride: int) -> None:
    torch.manual_seed(0)
    block = Bottleneck(inputs, 2, stride).double()
    for part in block.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
    assert (block.project is None) == (inputs == 8 and stride == 1)
    x = torch.randn(3, inputs, 4, 4, dtype=torch.float64, requires_grad=True)
    before = x.detach().clone()
    output = block(x)
    expected = by_definition(block, x)
    weight = torch.randn_like(output)
    leaves = [x, *block.parameters()]
    gradients = torch.autograd.grad((output * weight).sum(), leaves)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weight).sum(), leaves))
    assert torch.equal(x, before)  # the shortcut, a critic and the next group read it


# Training


def gradients_of(network: Network, method: str) -> dict[str, Tensor]:
    loaded = recipe.load("resnet50_cifar10", [f"train.method={method}"])
    build_method(loaded, network).backward(*rows(6), step=0)
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("method", ["backprop", "local_critic", "deep_supervision"])
@pytest.mark.parametrize("head", ["paper", "pooled"])
def test_gradients_are_those_without_anything_in_place(method: str, head: str) -> None:
    overrides = [f"train.method={method}", f"critics.head={head}", "critics.pool_to=2", "critics.after=[2,3,8]"]
    network = tiny_in_float64(*overrides)
    other = copy.deepcopy(network)
    switched = [part for part in other.modules() if isinstance(part, nn.ReLU)]
    assert len(switched) == 3 * 16 + 1 + len(network.critics)
    for part in switched:
        part.inplace = False
    first, second = gradients_of(network, method), gradients_of(other, method)
    assert all(first[name] is not None and first[name].abs().sum() > 0 for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)
