"""Stages rewritten for integer kernels compute what they did before."""

import copy
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from lcprune.exporters import rewrite
from lcprune.exporters.stages import export_module
from lcprune.models.network import Normalize
from lcprune_runtime.session import open_session

StagesOf = Callable[..., list[onnx.ModelProto]]


def outputs(stage: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    return list(open_session(stage.SerializeToString(), "a stage").run(None, {"image": images}))


def operators(stage: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in stage.graph.node]


def exported(*layers: nn.Module, channels: int = 3) -> onnx.ModelProto:
    return export_module(nn.Sequential(*layers).eval(), (channels, 8, 8), ("logits",))


@pytest.fixture
def pixels(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(255)


def test_a_pool_becomes_a_convolution_of_equal_weights(stages_of: StagesOf, pixels: np.ndarray) -> None:
    stage = copy.deepcopy(stages_of(1)[0])
    before = outputs(stage, pixels)
    rewrite.pools_as_convolutions(stage)
    assert "AveragePool" not in operators(stage)
    pool = next(node for node in stage.graph.node if node.input[1:] == [f"{node.output[0]}.weight"])
    weight = next(numpy_helper.to_array(t) for t in stage.graph.initializer if t.name == pool.input[1])
    np.testing.assert_array_equal(weight, np.full((4, 1, 2, 2), 0.25, np.float32))
    for got, expected in zip(outputs(stage, pixels), before, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2, padding=1), nn.AvgPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2)])
def test_a_pool_that_is_not_that_simple_stays(pool: nn.Module) -> None:
    stage = exported(pool)
    before = stage.SerializeToString(deterministic=True)
    rewrite.pools_as_convolutions(stage)
    assert stage.SerializeToString(deterministic=True) == before


class _Mean(nn.Module):
    def __init__(self, axes: tuple[int, ...], *, keeps: bool) -> None:
        super().__init__()
        self.axes, self.keeps = axes, keeps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(self.axes, keepdim=self.keeps)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_mean_over_height_and_width_becomes_a_pool(pixels: np.ndarray, keeps: bool) -> None:
    stage = exported(_Mean((2, 3), keeps=keeps))
    before = outputs(stage, pixels)
    rewrite.means_as_pools(stage)
    assert operators(stage) == ["GlobalAveragePool", *(() if keeps else ["Flatten"])]
    np.testing.assert_allclose(outputs(stage, pixels)[0], before[0], atol=1e-6)


def test_a_mean_over_something_else_stays() -> None:
    stage = exported(_Mean((1, 2), keeps=True))
    rewrite.means_as_pools(stage)
    assert operators(stage) == ["ReduceMean"]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_normalisation_goes_into_the_weights(channels: int) -> None:
    """At the border, too, where a convolution pads with what is 0 after the normalisation."""
    torch.manual_seed(0)
    normalize = Normalize([0.5, 0.4, 0.3][:channels], [0.2, 0.25, 0.3][:channels])
    stage = exported(normalize, nn.Conv2d(channels, 16, 3, padding=1), channels=channels)
    pixels = np.random.default_rng(0).random((5, channels, 8, 8), dtype=np.float32)
    before = outputs(stage, pixels)[0]
    assert rewrite.fold_normalization(stage)
    assert operators(stage) == ["Conv"]
    np.testing.assert_allclose(outputs(stage, rewrite.with_ones(pixels))[0], before, atol=1e-5)


def test_a_stage_that_does_not_begin_with_a_normalisation_stays() -> None:
    for layers in ([nn.Conv2d(3, 4, 3)], [Normalize([0.5] * 3, [0.2] * 3), nn.ReLU(), nn.Conv2d(3, 4, 3)]):
        stage = exported(*layers)
        before = stage.SerializeToString(deterministic=True)
        assert not rewrite.fold_normalization(stage)
        assert stage.SerializeToString(deterministic=True) == before
