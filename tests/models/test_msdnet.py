"""The multi-scale dense trunk: its cost by hand, its state between groups, and what trains it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcprune import recipe
from lcprune.analysis.counting import count_macs
from lcprune.errors import ModelError
from lcprune.models import Network, build
from lcprune.models.msdnet import Layer, Pack, Unpack, build_msdnet
from lcprune.training.methods import build_method

CIFAR = (3, 32, 32)
Shape = tuple[int, int, int]


def network_of(*overrides: str, image_shape: Shape = CIFAR) -> Network:
    loaded = recipe.load("msdnet_cifar10_small", overrides)
    return build(loaded, 10, image_shape, (0.5,) * image_shape[0], (0.25,) * image_shape[0])


def tiny(*overrides: str) -> Network:
    """6 layers of at most 12 channels at any scale, with critics after the second and the fourth."""
    small = ["model.width=0.16", "model.layers=6", "critics.after=[2,4]", "critics.channels=4"]
    return network_of(*small, *overrides, image_shape=(3, 8, 8))


def rows(size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(size, 3, 8, 8, generator=generator, dtype=dtype)
    return images, torch.randint(10, (size,), generator=generator)


# Size and cost


def test_the_macs_of_three_layers_by_hand() -> None:
    """3 channels and one more a layer, at 8x8, 4x4 and 2x2: a scale goes, and half of the channels, after 2 and 3."""
    (whole,), _ = build_msdnet((1, 8, 8), 5, layers=3, width=1 / 6, cuts=())
    stem = 9 * 3 * 64 + 9 * 3 * 6 * 16 + 9 * 6 * 12 * 4
    # per scale: its own bottleneck, then the finer scale's 1x1 and, at half the size, its 3x3
    first = (3 + 9) * 64 + (6 * 2 + 9 * 2) * 16 + (3 * 64 + 9 * 16)
    first += (12 * 8 + 9 * 8 * 2) * 4 + (6 * 4 * 16 + 9 * 4 * 2 * 4)
    second = (8 * 2 + 9 * 2) * 16 + (4 * 64 + 9 * 16) + (16 * 8 + 9 * 8 * 2) * 4 + (8 * 4 * 16 + 9 * 4 * 2 * 4)
    second += 10 * 4 * 16 + 20 * 8 * 4
    third = (8 * 8 + 9 * 8 * 2) * 4 + (4 * 4 * 16 + 9 * 4 * 2 * 4) + 12 * 4 * 4
    head = 9 * 4 * 21 + 9 * 21 * 21 + 21 * 5
    assert count_macs(whole, (1, 8, 8)) == stem + first + second + third + head


# Structure


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (4, 5), (17, 30)])
def test_the_shapes_at_the_cuts_are_those_that_come_out(height: int, width: int) -> None:
    groups, shapes = build_msdnet((1, height, width), 4, layers=7, width=0.2, cuts=range(1, 7))
    hidden = torch.zeros(2, 1, height, width)
    for group, shape in zip(groups[:-1], shapes, strict=True):
        hidden = group(hidden)
        assert hidden.shape == (2, *shape)
    assert groups[-1](hidden).shape == (2, 4)


def test_the_finest_scale_goes_after_each_third() -> None:
    groups, _ = build_msdnet(CIFAR, 10, layers=8, width=1.0, cuts=range(1, 8))
    states = [group[-1].shapes for group in groups[:-1]]
    assert [state[0][1:] for state in states] == [(32, 32)] * 3 + [(16, 16)] * 3 + [(8, 8)]
    assert [state[-1][0] for state in states] == [4 * n for n in (22, 28, 34, 20, 26, 32, 19)]  # (34 + 6) / 2, ..
    assert all(len({channels * wide for channels, _, wide in state}) == 1 for state in states)


def test_packing_is_undone_by_unpacking() -> None:
    shapes = ((3, 5, 4), (6, 3, 2), (12, 2, 1))
    scales = [torch.rand(2, *shape) for shape in shapes]
    packed = Pack(shapes)(scales)
    assert packed.shape == (2, 3 * 20 + 6 * 6 + 12 * 2, 1, 1)
    assert all(torch.equal(first, second) for first, second in zip(scales, Unpack(shapes)(packed), strict=True))
    assert [scale.shape for scale in Unpack(shapes)(packed[:0])] == [(0, *shape) for shape in shapes]
    channels_last = [scale.contiguous(memory_format=torch.channels_last) for scale in scales]
    assert torch.equal(Pack(shapes)(channels_last), packed)


def test_cutting_changes_nothing() -> None:
    whole, _ = build_msdnet((3, 8, 8), 10, layers=6, width=0.2, cuts=())
    cut, _ = build_msdnet((3, 8, 8), 10, layers=6, width=0.2, cuts=(1, 3, 5))
    # between groups lie a Pack and an Unpack, which have no weights
    cut_up = nn.Sequential(*(layer for group in cut for layer in group))
    cut_up.load_state_dict(dict(zip(cut_up.state_dict(), whole[0].state_dict().values(), strict=True)))
    image = torch.rand(4, 3, 8, 8)
    assert torch.equal(nn.Sequential(*cut).eval()(image), whole[0].eval()(image))


@pytest.mark.parametrize("drop", [False, True])
def test_a_layer_keeps_what_it_reads_and_adds_to_it(drop: bool) -> None:
    """DenseNet's concatenation, with half of the new channels out of the finer scale."""
    torch.manual_seed(0)
    layer = Layer(2, 3, finest=0, drop=drop).eval()
    scales = [torch.randn(2, channels, size, size) for channels, size in ((2, 8), (4, 4), (8, 2))]

    def computed(block: nn.Module, x: Tensor, stride: int) -> Tensor:
        first, second = block[0].weight, block[3].weight
        shrink = (1 + 1e-5) ** -0.5  # BatchNorm at rest
        inner = F.relu(F.conv2d(x, first) * shrink)
        return F.relu(F.conv2d(inner, second, stride=stride, padding=1) * shrink)

    own, down = list(layer.own), list(layer.down)
    expected = []
    for scale in range(int(drop), 3):
        parts = [scales[scale]]
        if scale > 0:
            parts.append(computed(down[scale - 1], scales[scale - 1], 2))
        parts.append(computed(own[scale - int(drop)], scales[scale], 1))
        expected.append(torch.cat(parts, dim=1))
    torch.testing.assert_close(layer(scales), expected)
    assert [scale.shape[1] for scale in expected] == [5, 10, 20][int(drop) :]


@pytest.mark.parametrize("head", ["msdnet", "paper", "pooled"])
def test_a_critic_reads_the_coarsest_scale_alone(head: str) -> None:
    network = tiny(f"critics.head={head}", "critics.pool_to=1").eval()
    drawn = torch.Generator().manual_seed(0)  # so few channels may all be dead units
    for group, critic in zip(network.groups[:-1], network.critics, strict=True):
        shapes = group[-1].shapes
        packed = torch.rand(2, sum(c * h * w for c, h, w in shapes), 1, 1, generator=drawn)
        finer = packed.shape[1] - shapes[-1][0] * shapes[-1][1] * shapes[-1][2]
        said = critic(packed)
        packed[:, :finer] += 1
        assert torch.equal(critic(packed), said)
        packed[:, finer:] += 1
        assert not torch.equal(critic(packed), said)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_sub_model_gives_the_logits_of_its_exit_and_can_stand_alone(k: int) -> None:
    network = tiny().eval()
    image = rows(5)[0]
    with torch.no_grad():
        said = network(image)[k - 1]
        assert torch.equal(network.submodel(k)(image), said)
        if k < 3:
            alone = tiny("train.method=backprop", f"model.submodel={k}").eval()
            weights = network.submodel(k).state_dict().values()
            alone.load_state_dict(dict(zip(alone.state_dict(), weights, strict=True)))
            torch.testing.assert_close(alone(image), [said])


def test_a_cut_outside_and_an_image_too_small_are_refused() -> None:
    with pytest.raises(ModelError) as caught:
        network_of("critics.after=[4,8]")
    assert caught.value.problem == "critics.after: [8] is not inside the backbone, which has 8 layers"
    with pytest.raises(ModelError, match="cannot be halved 2 times"):
        network_of(image_shape=(3, 3, 8))


# Training


def gradients_of(network: Network, method: str) -> dict[str, Tensor]:
    loaded = recipe.load("msdnet_cifar10_small", [f"train.method={method}", "critics.after=[2,4]"])
    build_method(loaded, network).backward(*rows(6, torch.float64), step=0)
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def test_deep_supervision_reaches_every_weight() -> None:
    gradients = gradients_of(tiny().double().train(), "deep_supervision")
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())


def test_local_critic_leaves_the_fine_scales_of_a_groups_last_layers_alone() -> None:
    """A critic reads the coarsest scale; what the last two layers give to finer ones reaches later groups only."""
    gradients = gradients_of(tiny().double().train(), "local_critic")
    without = {name for name, gradient in gradients.items() if gradient is None or not gradient.abs().sum() > 0}
    # group 1: stem, layers 1 and 2 (three scales each); group 2: layers 3 (two scales), transition, 4 (two scales)
    silent = {"groups.0.1.own.0", "groups.0.2.own.0", "groups.0.2.own.1", "groups.0.2.down.0", "groups.1.3.own.0"}
    assert {".".join(name.split(".")[:5]) for name in without} == silent
