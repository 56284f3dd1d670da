"""Multiply-adds and parameters, by hand, by the paper's figures and by a second counter."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lcprune import recipe
from lcprune.analysis.cost import CascadeCost, ExitCost, NetworkCost
from lcprune.analysis.counting import count_cost, count_macs, count_params
from lcprune.errors import ProfileError
from lcprune.models import Network, build

CIFAR = (3, 32, 32)


def network_of(*overrides: str, classes: int = 10, image_shape: tuple[int, int, int] = CIFAR) -> Network:
    channels = image_shape[0]
    loaded = recipe.load("vgg_cifar10", overrides)
    return build(loaded, classes, image_shape, (0.5,) * channels, (0.25,) * channels)


def half_of_torchs_count(module: nn.Module, image_shape: tuple[int, int, int]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, *image_shape))
    return counter.get_total_flops() / 2


def test_linear_layers_by_hand() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))
    assert count_macs(module, (3, 2, 2)) == 12 * 5 + 5 * 2
    assert count_params(module) == (12 * 5 + 5) + 5 * 2


def test_convolutions_by_hand() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),  # 8x8 out
        nn.Conv2d(4, 8, 3, stride=2),  # 3x3 out
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
    )
    assert count_macs(module, (3, 8, 8)) == 3 * 4 * 9 * 64 + 4 * 8 * 9 * 9 + 8 * 9 * 9


@pytest.mark.parametrize(
    "free",
    [
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Hardswish(inplace=True),
        nn.AvgPool2d(1),
        nn.AdaptiveAvgPool2d(4),
        nn.Softmax(dim=1),
        nn.Dropout(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_normalisation_activation_and_pooling_are_left_out(free: nn.Module) -> None:
    assert count_macs(nn.Sequential(free, nn.Flatten(), nn.Linear(48, 2)), (3, 4, 4)) == 96


def test_matrix_products_count() -> None:
    class Attention(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            tokens = image.flatten(2)  # (N, 3, 16)
            return torch.softmax(tokens @ tokens.transpose(1, 2), -1) @ tokens  # 3x16x3 and 3x3x16

    assert count_macs(Attention(), (3, 4, 4)) == 2 * 3 * 16 * 3


def test_what_cannot_be_counted_is_refused() -> None:
    class Opaque(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(image, image, image)

    with pytest.raises(ProfileError) as caught:
        count_macs(Opaque(), (3, 4, 4))
    assert caught.value.problem == "the multiply-adds of aten::scaled_dot_product_attention cannot be counted"


@pytest.mark.parametrize(
    ("shape", "macs"), [((4,), 3 * 4 * 4), ((4, 5), 3 * 4 * 4 * 5), ((2, 1, 4, 5), 2 * 3 * 4 * 4 * 5)]
)
def test_matrix_products_with_vectors_and_broadcasting_count(shape: tuple[int, ...], macs: int) -> None:
    class Product(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image @ torch.ones(shape)

    assert count_macs(Product(), (3, 4, 4)) == macs
    if len(shape) > 1:  # torch counts no product with a vector
        assert half_of_torchs_count(Product(), (3, 4, 4)) == macs


def test_shared_weights_count_once_and_their_work_every_time() -> None:
    layer = nn.Linear(4, 4, bias=False)
    module = nn.Sequential(layer, layer)
    assert (count_params(module), count_macs(module, (1, 1, 4))) == (16, 32)


@pytest.mark.parametrize(
    ("overrides", "macs", "params", "cascade_macs"),
    [
        (
            [],
            [116_326_400, 171_966_464, 247_218_176, 322_715_648],
            [1_423_434, 883_530, 2_261_322, 7_867_594],
            456_556_544,
        ),
        (
            ["critics.head=pooled"],
            [40_718_336, 136_269_824, 233_000_960, 322_715_648],
            [133_194, 576_330, 2_199_882, 7_867_594],
            331_034_624,
        ),
    ],
)
def test_the_papers_network(overrides: list[str], macs: list[int], params: list[int], cascade_macs: int) -> None:
    cost = count_cost(network_of(*overrides), CIFAR)
    names = ["sub-model 1", "sub-model 2", "sub-model 3", "main"]
    assert cost.exits == tuple(ExitCost(name, i, macs[i], params[i]) for i, name in enumerate(names))
    assert cost.cascade.group_macs == (39_518_208, 94_371_840, 94_371_840, 94_453_760)
    assert cost.cascade.critic_macs == tuple(macs[i] - sum(cost.cascade.group_macs[: i + 1]) for i in range(3))
    assert cost.cascade.exit_macs()[-1] == cascade_macs


@pytest.mark.parametrize(
    ("overrides", "classes", "image_shape"),
    [
        (["model.width=0.25", "critics.head=pooled"], 100, (3, 32, 32)),
        (["model.width=0.3", "critics.after=[2,4,6,8,10]", "critics.depth=[1,2,3,2,1]"], 7, (1, 16, 24)),
        (["model.width=0.1", "model.downsample=stride"], 3, (3, 17, 33)),
        (["model.width=0.1", "train.method=backprop"], 3, (3, 8, 8)),
    ],
)
def test_macs_are_half_of_torchs_flops(overrides: list[str], classes: int, image_shape: tuple[int, int, int]) -> None:
    network = network_of(*overrides, classes=classes, image_shape=image_shape)
    cost = count_cost(network, image_shape)
    for k, exit_cost in enumerate(cost.exits, start=1):
        submodel = network.submodel(k)
        assert exit_cost.macs == count_macs(submodel, image_shape) == half_of_torchs_count(submodel, image_shape)
        assert exit_cost.params == count_params(submodel) == sum(p.numel() for p in submodel.parameters())
    assert cost.cascade.exit_macs()[-1] == half_of_torchs_count(network, image_shape)
    assert len(cost.cascade.critic_macs) == len(cost.cascade.group_macs) - 1


def test_the_cost_of_the_first_exits_alone() -> None:
    """What was the second critic is now the end of the second group."""
    exits = tuple(ExitCost(f"exit {k}", k, macs, 1) for k, macs in enumerate((101, 212, 600)))
    whole = NetworkCost(exits, CascadeCost((100, 110, 390), (1, 2)))
    assert whole.kept((0, 1)) == NetworkCost(exits[:2], CascadeCost((100, 112), (1,)))
    assert whole.kept((0, 1, 2)) == whole
    assert whole.kept((1, 2)) == NetworkCost(exits[1:], CascadeCost((210, 390), (2,)))


def test_a_group_pays_for_weights_that_it_borrows() -> None:
    shared = nn.Linear(4, 4)
    groups = [nn.Sequential(shared), nn.Sequential(shared, nn.Flatten(), nn.Linear(4, 2))]
    cost = count_cost(Network(nn.Identity(), groups, [nn.Sequential(nn.Flatten(), nn.Linear(4, 2))]), (1, 1, 4))
    assert (cost.cascade.group_macs, cost.cascade.critic_macs) == ((16, 24), (8,))


def test_modes_statistics_and_gradients_are_left_as_they_were() -> None:
    network = network_of("model.width=0.1")
    network.train()
    network.groups[1].eval()
    modes = {name: module.training for name, module in network.named_modules()}
    values = {name: value.clone() for name, value in network.state_dict().items()}
    count_cost(network, CIFAR)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in values.items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_modes_are_left_after_a_failure() -> None:
    module = nn.Sequential(nn.Linear(5, 2)).train()
    with pytest.raises(RuntimeError):
        count_macs(module, (1, 1, 4))
    assert module.training


def test_a_module_in_another_precision() -> None:
    assert count_macs(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double(), (1, 2, 2)) == 8
