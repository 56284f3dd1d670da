"""The network of a recipe: its size, its cost, its first weights."""

import pytest
import torch
from torch import nn

from lcprune import recipe
from lcprune.errors import ModelError
from lcprune.models import Network, build, initialize
from lcprune.training.optim import build_optimizers

CIFAR = (3, 32, 32)


def network_of(*overrides: str, classes: int = 10, image_shape: tuple[int, int, int] = CIFAR) -> Network:
    channels = image_shape[0]
    loaded = recipe.load("vgg_cifar10", overrides)
    return build(loaded, classes, image_shape, (0.5,) * channels, (0.25,) * channels)


def params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("overrides", [[], ["critics.head=pooled"]])
def test_a_stride_costs_the_same_weights_as_a_pool(overrides: list[str]) -> None:
    stride = network_of("model.downsample=stride", *overrides)
    pool = network_of(*overrides)
    assert [params(stride.submodel(k)) for k in (1, 2, 3, 4)] == [params(pool.submodel(k)) for k in (1, 2, 3, 4)]
    assert [logits.shape for logits in stride.eval()(torch.zeros(2, *CIFAR))] == [(2, 10)] * 4


@pytest.mark.parametrize(
    ("name", "group_sizes"),
    [("vgg_cifar10", [2, 3, 3, 3]), ("vgg_cifar10_lc1", [5, 6]), ("vgg_cifar10_lc5", [2] * 5 + [1])],
)
def test_critics_sit_where_the_recipe_puts_them(name: str, group_sizes: list[int]) -> None:
    network = build(recipe.load(name, ["model.width=0.1"]), 10, CIFAR, (0.5,) * 3, (0.25,) * 3)
    convolutions = [[part for part in group.modules() if isinstance(part, nn.Conv2d)] for group in network.groups]
    assert [len(group) for group in convolutions] == group_sizes
    assert len(network.critics) == len(group_sizes) - 1
    assert all(not isinstance(part, nn.BatchNorm2d) for part in network.critics.modules())
    assert all(part.bias is None for group in convolutions for part in group)
    with torch.no_grad():
        assert [logits.shape for logits in network.eval()(torch.zeros(3, *CIFAR))] == [(3, 10)] * len(group_sizes)


def test_every_critic_may_have_a_shape_of_its_own() -> None:
    network = network_of(
        "model.width=0.1",
        "critics.head=pooled",
        "critics.depth=[2,1,0]",
        "critics.channels=[3,4,5]",
        "critics.pool_to=[8,4,2]",
        "critics.kernel=1",
    )
    assert [critic[0].kernel_size for critic in network.critics] == [(4, 4), (4, 4), (4, 4)]  # of 32, 16 and 8
    convolutions = [[part for part in critic if isinstance(part, nn.Conv2d)] for critic in network.critics]
    assert [[part.out_channels for part in of_critic] for of_critic in convolutions] == [[3, 3], [4], []]
    assert {part.kernel_size for of_critic in convolutions for part in of_critic} == {(1, 1)}
    assert [critic[-1].in_features for critic in network.critics] == [3 * 64, 4 * 16, 26 * 4]


def test_backprop_has_no_critics() -> None:
    lists = ["critics.depth=[1,2,3]", "critics.channels=[1,2,3]", "critics.pool_to=[1,2,3]", "critics.head=pooled"]
    network = network_of("train.method=backprop", "model.width=0.1", *lists)
    assert (len(network.groups), len(network.critics)) == (1, 0)
    assert network.exit_names == ("main",)


def test_a_sub_model_alone_computes_what_it_computes_in_the_cascade() -> None:
    settings = ["model.width=0.1", "critics.head=pooled", "critics.channels=[3,4,5]", "critics.depth=[1,2,3]"]
    in_cascade = network_of(*settings).eval()
    image = torch.rand(2, *CIFAR, generator=torch.Generator().manual_seed(0))
    for k in (1, 2, 3):
        alone = network_of(*settings, "train.method=backprop", f"model.submodel={k}").eval()
        # layer by layer in the same order: groups 1..k, then critic k
        alone.load_state_dict(dict(zip(alone.state_dict(), in_cascade.submodel(k).state_dict().values(), strict=True)))
        torch.testing.assert_close(alone(image), [in_cascade(image)[k - 1]])


def test_a_sub_model_alone_has_one_optimizer_and_decays_its_critics_weights() -> None:
    overrides = ["model.width=0.1", "train.method=backprop", "model.submodel=2", "critics.channels=4"]
    loaded = recipe.load("vgg_cifar10", overrides)
    network = build(loaded, 10, CIFAR, (0.5,) * 3, (0.25,) * 3)
    (optimizer,) = build_optimizers(loaded, network)
    decays = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    assert len(decays) == len(list(network.parameters()))
    *_, convolution, _, _, linear = network.groups[0]
    assert convolution.out_channels == 4
    assert [decays[id(layer.weight)] for layer in (convolution, linear)] == [5e-4, 5e-4]
    assert [decays[id(layer.bias)] for layer in (convolution, linear)] == [0.0, 0.0]


def test_other_sizes_channels_and_classes() -> None:
    network = network_of(
        "model.width=0.25", "critics.channels=8", "critics.depth=[3,2,1]", classes=7, image_shape=(1, 24, 40)
    )
    assert [logits.shape for logits in network.eval()(torch.zeros(5, 1, 24, 40))] == [(5, 7)] * 4
    assert [sum(isinstance(part, nn.Conv2d) for part in critic) for critic in network.critics] == [3, 2, 1]
    assert [part.out_channels for part in network.groups.modules() if isinstance(part, nn.Conv2d)] == (
        [16] * 2 + [32] * 3 + [64] * 3 + [128] * 3
    )


def test_classes_of_the_recipe_must_be_those_of_the_data() -> None:
    with pytest.raises(ModelError) as caught:
        network_of("model.classes=10", classes=7)
    assert caught.value.problem == "model.classes is 10 but the data has 7 classes"
    assert caught.value.fix == "set model.classes: 7, or leave it out"
    assert network_of("model.classes=10", "model.width=0.1")


# First weights


def test_the_seed_decides_the_weights() -> None:
    first, same, other = (network_of("model.width=0.1", f"train.seed={seed}").state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["groups.0.0.weight"], other["groups.0.0.weight"])


def test_the_global_generator_does_not_matter_and_is_left_alone() -> None:
    torch.manual_seed(1)
    first = network_of("model.width=0.1").state_dict()
    torch.manual_seed(2)
    network = network_of("model.width=0.1")
    assert all(torch.equal(first[name], value) for name, value in network.state_dict().items())
    before = torch.get_rng_state()
    initialize(network, "xavier", seed=5)
    initialize(network, "kaiming", seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_xavier_and_kaiming_have_their_spread() -> None:
    layers = nn.Sequential(nn.Conv2d(16, 64, 3), nn.Linear(300, 100))
    for scheme, convolution in (("xavier", (2 / (16 * 9 + 64 * 9)) ** 0.5), ("kaiming", (2 / (16 * 9)) ** 0.5)):
        initialize(layers, scheme, seed=0)
        assert layers[0].weight.std().item() == pytest.approx(convolution, rel=0.02)
        assert layers[1].weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
        assert layers[1].weight.abs().max().item() <= (6 / 400) ** 0.5  # uniform
        assert not layers[0].bias.any()
        assert not layers[1].bias.any()


def test_depthwise_weights_have_the_spread_of_what_they_sum() -> None:
    layer = nn.Conv2d(2000, 2000, 3, groups=2000)
    for scheme, expected in (("xavier", (2 / (9 + 9)) ** 0.5), ("kaiming", (2 / 9) ** 0.5)):
        initialize(layer, scheme, seed=0)  # torch takes 2000 * 9 outputs for those of one group with xavier
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.02)
        assert not layer.bias.any()


@pytest.mark.parametrize("method", ["local_critic", "critic", "sobolev_local_critic", "sobolev_critic", "dni"])
def test_methods_that_need_a_place_say_so(method: str) -> None:
    with pytest.raises(ModelError, match=f"{method} needs a critic, but critics.after is empty"):
        network_of("model.width=0.1", "critics.after=[]", f"train.method={method}")


def test_the_network_of_dni_is_that_of_backprop_with_modules_beside_it() -> None:
    lists = ["critics.depth=[1,2,3]", "critics.channels=[4,5,6]", "model.width=0.1", "train.seed=3"]
    dni, backprop = (network_of(f"train.method={name}", *lists) for name in ("dni", "backprop"))
    assert (len(dni.groups), len(dni.critics), dni.exit_names) == (1, 0, ("main",))
    assert [len(part) for part in dni.groups[0]] == [6, 10, 10, 12]  # layers; a pool before each but the first
    assert [len(module.hidden) for module in dni.synthesizers] == [2, 4, 6]
    assert [module.output.in_channels for module in dni.synthesizers] == [4, 5, 6]
    for one, other in zip(dni.groups.parameters(), backprop.groups.parameters(), strict=True):
        assert torch.equal(one, other)  # drawn from the seed in the same order
    image = torch.rand(2, *CIFAR)
    assert torch.equal(dni.eval()(image)[0], backprop.eval()(image)[0])
    assert not any(bool(module.output.weight.any()) for module in dni.synthesizers)
