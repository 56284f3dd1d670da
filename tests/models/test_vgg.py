"""The trunk of Figure 2a."""

import pytest
import torch
from torch import nn

from lcprune.errors import ModelError
from lcprune.models.vgg import build_vgg


@pytest.mark.parametrize("downsample", ["max_pool", "stride"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (17, 30), (9, 15)])
def test_the_shapes_at_the_cuts_are_those_that_come_out(downsample: str, height: int, width: int) -> None:
    cuts = range(1, 11)
    groups, shapes = build_vgg((3, height, width), 4, width=0.05, downsample=downsample, cuts=cuts)
    hidden = torch.zeros(2, 3, height, width)
    for group, shape in zip(groups[:-1], shapes, strict=True):
        hidden = group(hidden)
        assert hidden.shape == (2, *shape)
    assert groups[-1](hidden).shape == (2, 4)


def test_a_pool_stands_at_the_head_of_its_group() -> None:
    groups, _ = build_vgg((3, 8, 8), 10, width=0.1, downsample="max_pool", cuts=(2, 5, 8))
    names = [[type(layer).__name__ for layer in group] for group in groups]
    layer = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert names == [layer * 2, *[["MaxPool2d"] + layer * 3] * 2, ["MaxPool2d", *layer * 3, "Flatten", "Linear"]]


def test_cutting_changes_nothing() -> None:
    whole, _ = build_vgg((3, 8, 8), 10, width=0.1, downsample="max_pool", cuts=())
    cut, _ = build_vgg((3, 8, 8), 10, width=0.1, downsample="max_pool", cuts=(1, 4, 10))
    nn.Sequential(*(layer for group in cut for layer in group)).load_state_dict(whole[0].state_dict())
    image = torch.rand(4, 3, 8, 8)
    assert torch.equal(nn.Sequential(*cut).eval()(image), whole[0].eval()(image))


@pytest.mark.parametrize(
    ("width", "channels"), [(1.0, [64, 128, 256, 512]), (0.25, [16, 32, 64, 128]), (0.001, [1] * 4)]
)
def test_width_scales_the_channels_and_leaves_at_least_one(width: float, channels: list[int]) -> None:
    groups, _ = build_vgg((3, 8, 8), 10, width=width, downsample="max_pool", cuts=(2, 5, 8))
    assert [[part.out_channels for part in group if isinstance(part, nn.Conv2d)][-1] for group in groups] == channels


@pytest.mark.parametrize("cuts", [(11,), (2, 12), (0,)])
def test_a_cut_outside_is_refused(cuts: tuple[int, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        build_vgg((3, 32, 32), 10, width=0.1, downsample="max_pool", cuts=cuts)
    assert f"[{cuts[-1]}] is not inside the backbone, which has 11 convolutions" in caught.value.problem
    assert caught.value.fix == "write places from 1 to 10"


@pytest.mark.parametrize("size", [(7, 8), (8, 7)])
def test_an_image_that_cannot_be_halved_three_times_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ModelError) as caught:
        build_vgg((3, *size), 10, width=0.1, downsample="max_pool", cuts=())
    assert caught.value.problem == f"an image of {size[0]}x{size[1]} cannot be halved 3 times"
    assert "8x8" in caught.value.fix
