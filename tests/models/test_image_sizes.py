"""One network for several input sizes: which weights are shared, what an exit at a size computes and costs."""

import pytest
import torch
from torch import nn

from lcprune import recipe
from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.counting import count_cost
from lcprune.errors import ModelError, RecipeError
from lcprune.models import Network, build
from lcprune.models.network import reduced

RECIPE = """
name: sizes
data: {source: imagefolder, image_size: [48, 32, 64], val_size: 10}
model: {trunk: torchvision/mobilenet_v2, groups: 3}
critics: {head: pooled}
train: {method: deep_supervision, iterations: 10}
"""


def network_of(*overrides: str) -> Network:
    loaded = recipe.parse(RECIPE, "sizes.yaml", overrides)
    return build(loaded, 5, (3, 64, 64), (0.4,) * 3, (0.2,) * 3).eval()


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of()


def test_the_exits_of_every_size_follow_each_other(network: Network) -> None:
    names = [f"{name} at {size} px" for size in (32, 48, 64) for name in ("sub-model 1", "sub-model 2", "main")]
    assert list(network.exit_names) == names
    assert network.starts == (0, 3, 6)


def test_only_batch_norm_and_critics_are_of_one_size(network: Network) -> None:
    of_first, of_last = (dict(network.at(size).groups.named_parameters()) for size in (32, 64))
    own = {name for name in of_first if of_first[name] is not of_last[name]}
    normed = {name for name, part in network.at(32).groups.named_modules() if isinstance(part, nn.BatchNorm2d)}
    assert own == {f"{name}.{key}" for name in normed for key in ("weight", "bias")}
    critics = {id(weight) for size in (32, 64) for weight in network.at(size).critics.parameters()}
    assert len(critics) == 2 * len(list(network.at(32).critics.parameters()))


@torch.no_grad()
def test_an_exit_at_a_size_is_that_of_a_network_for_reduced_images(network: Network) -> None:
    images = torch.rand(2, 3, 64, 64)
    logits = network(images)
    for k, size in enumerate((32, 48, 64)):
        alone = network.at(size)
        smaller = Network(alone.normalize, list(alone.groups), list(alone.critics))  # for images of that size
        expected = smaller(reduced(images, size))
        for exit_index in range(3):
            at = 3 * k + exit_index
            torch.testing.assert_close(logits[at], expected[exit_index])
            torch.testing.assert_close(network.submodel(at + 1)(images), logits[at])
            torch.testing.assert_close(network.truncated(at + 1)(images)[-1], logits[at])


def test_sizes_that_divide_the_image_are_averages_and_others_are_linear_between_pixels() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert reduced(ramp, 4)[0, 0, 0].tolist() == [0.5, 2.5, 4.5, 6.5]
    assert reduced(ramp, 2)[0, 0, 0].tolist() == [1.5, 5.5]
    assert reduced(ramp, 6)[0, 0, 0].tolist() == pytest.approx([(k + 0.5) * 8 / 6 - 0.5 for k in range(6)], abs=1e-5)
    assert reduced(ramp, 3)[0, 0, 0].tolist() == pytest.approx([(k + 0.5) * 8 / 3 - 0.5 for k in range(3)], abs=1e-5)
    assert reduced(ramp, 8) is ramp


def test_costs_of_single_exits_and_of_a_cascade_over_sizes(network: Network) -> None:
    cost = count_cost(network, (3, 64, 64))
    at_48 = count_cost(
        Network(network.normalize, list(network.at(48).groups), list(network.at(48).critics)), (3, 48, 48)
    )
    assert [row.macs for row in cost.exits[3:6]] == [row.macs for row in at_48.exits]
    assert [row.params for row in cost.exits[3:6]] == [row.params for row in at_48.exits]
    assert [row.image_size for row in cost.exits] == [32] * 3 + [48] * 3 + [64] * 3
    assert cost.cascade.main_macs == cost.exits[-1].macs


def test_a_cascade_over_sizes_pays_for_every_size_that_it_looks_at() -> None:
    cost = CascadeCost((10, 20, 100, 200), (1, 0, 2), starts=(0, 2))
    assert cost.main_macs == 300
    assert cost.exit_macs() == (11, 31, 133, 333)
    assert cost.exit_macs([0]) == (11, 311)  # the second group of the small size is not computed
    assert cost.exit_macs([1, 2]) == (30, 132, 332)
    kept = cost.kept([0, 2, 3])
    assert (kept.group_macs, kept.critic_macs, kept.starts) == ((10, 100, 200), (1, 2), (0, 1))
    assert cost.kept([0, 1]) == CascadeCost((10, 20), (1,), (0,))
    assert cost.kept([2]) == CascadeCost((102,), (), (0,))


def test_a_backbone_whose_weights_depend_on_the_size_is_refused() -> None:
    loaded = recipe.parse(RECIPE.replace("torchvision/mobilenet_v2, groups: 3", "vgg, width: 0.1"), "sizes.yaml", [])
    with pytest.raises(ModelError, match="for images of 32 pixels") as refused:
        build(loaded, 5, (3, 64, 64), (0.4,) * 3, (0.2,) * 3)
    assert "global average pool" in refused.value.fix


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["data.image_size=[32,32]"], "does not name several sizes"),
        (["data.image_size=[32]"], "does not name several sizes"),
        (["data.image_size=[32,0]"], "greater than 0"),
        (["train.method=local_critic"], "which train.method local_critic does not do"),
        (["train.freeze=[1]"], "train.freeze is not for several sizes"),
        (["critics.weight_schedule=decay"], "critics.weight_schedule is not for several sizes"),
        (["data.source=cifar10"], "cifar10 images have a size of their own, 32 pixels"),
    ],
)
def test_what_does_not_go_with_several_sizes_is_refused(overrides: list[str], problem: str) -> None:
    with pytest.raises(RecipeError) as refused:
        recipe.parse(RECIPE, "sizes.yaml", overrides)
    assert problem in str(refused.value)
