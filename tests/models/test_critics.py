"""Critics, layer by layer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from lcprune.errors import ModelError
from lcprune.exporters.quantize import reduce
from lcprune.exporters.stages import export_module, export_stages
from lcprune.models import Network, mixes_samples
from lcprune.models.critics import CriticDesign, build_critic
from lcprune.recipe.schema.section import Head

PHONE_OPS = {"Conv", "Relu", "AveragePool", "Flatten", "Gemm"}
"""What every int8 runtime for phones knows."""


def design(head: Head = "paper", **changes: Any) -> CriticDesign:
    return CriticDesign(**{"head": head, "depth": 1, "channels": 3} | changes)


def layers(critic: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in critic]


def params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_papers_critic_convolves_at_full_resolution() -> None:
    critic = build_critic((6, 4, 6), 5, design(depth=2))
    assert layers(critic) == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Flatten", "Linear"]
    assert params(critic) == (6 * 3 * 9 + 3) + (3 * 3 * 9 + 3) + (3 * 4 * 6 * 5 + 5)
    assert critic(torch.zeros(2, 6, 4, 6)).shape == (2, 5)


def test_the_pooled_critic_averages_first_with_an_integer_kernel() -> None:
    critic = build_critic((6, 8, 12), 5, design("pooled"))
    assert layers(critic) == ["AveragePool", "Conv2d", "ReLU", "Flatten", "Linear"]
    assert critic[0].kernel_size == (2, 3)
    assert critic[-1].in_features == 3 * 4 * 4
    assert critic(torch.zeros(2, 6, 8, 12)).shape == (2, 5)


def test_the_global_critic_reads_one_mean_per_channel() -> None:
    critic = build_critic((6, 8, 12), 5, design("global", kernel=1))
    assert layers(critic) == ["AveragePool", "Conv2d", "ReLU", "AveragePool", "Flatten", "Linear"]
    assert (critic[0].kernel_size, critic[3].kernel_size) == ((2, 3), (4, 4))
    assert (critic[1].kernel_size, critic[1].padding) == ((1, 1), (0, 0))
    assert params(critic) == (6 * 3 + 3) + (3 * 5 + 5)
    hidden = torch.rand(2, 6, 8, 12)
    pooled = nn.functional.avg_pool2d(hidden, (2, 3))
    means = critic[1](pooled).relu().mean(dim=(2, 3))
    torch.testing.assert_close(critic(hidden), critic[-1](means))


def test_the_separable_critic_convolves_each_channel_by_itself_and_then_mixes() -> None:
    critic = build_critic((6, 8, 8), 5, design("separable", depth=2, kernel=1))
    one = ["Conv2d", "Conv2d", "ReLU"]
    assert layers(critic) == ["AveragePool", *one, *one, "Flatten", "Linear"]
    depthwise, pointwise = critic[1], critic[2]
    assert (depthwise.groups, depthwise.kernel_size, depthwise.bias) == (6, (3, 3), None)
    assert (pointwise.groups, pointwise.kernel_size, pointwise.out_channels) == (1, (1, 1), 3)
    assert params(critic) == (6 * 9 + 6 * 3 + 3) + (3 * 9 + 3 * 3 + 3) + (3 * 4 * 4 * 5 + 5)
    assert critic(torch.zeros(2, 6, 8, 8)).shape == (2, 5)


def test_the_strided_critic_halves_instead_of_averaging() -> None:
    critic = build_critic((6, 16, 16), 5, design("strided", kernel=1))
    assert layers(critic) == [*["Conv2d", "ReLU"] * 3, "Flatten", "Linear"]
    of_convolutions = [(critic[i].kernel_size, critic[i].stride, critic[i].in_channels) for i in (0, 2, 4)]
    assert of_convolutions == [((3, 3), (2, 2), 6), ((3, 3), (2, 2), 3), ((1, 1), (1, 1), 3)]
    assert critic[-1].in_features == 3 * 4 * 4
    assert critic(torch.zeros(2, 6, 16, 16)).shape == (2, 5)


def test_the_critic_of_msdnet_reads_nothing_but_its_channels() -> None:
    critic = build_critic((6, 10, 8), 5, design("msdnet", depth=3, pool_to=7, kernel=1))
    one = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert layers(critic) == [*one, *one, "AveragePool", "Flatten", "Linear"]
    assert params(critic) == (6 * 9 * 3 + 6) + (3 * 9 * 3 + 6) + (3 * 5 + 5)
    assert critic.eval()(torch.zeros(2, 6, 10, 8)).shape == (2, 5)  # 10 x 8, 5 x 4, 3 x 2


@pytest.mark.parametrize("head", ["pooled", "global", "separable", "strided"])
def test_a_hidden_layer_of_the_right_size_needs_no_reduction(head: Head) -> None:
    critic = build_critic((6, 4, 4), 5, design(head))
    assert layers(critic)[0] == "Conv2d"
    assert critic[0].stride == (1, 1)


@pytest.mark.parametrize("head", ["pooled", "global", "separable", "strided"])
@pytest.mark.parametrize(("height", "width"), [(6, 8), (8, 6), (2, 2), (4, 2)])
def test_a_reduction_that_does_not_divide_or_would_enlarge_is_refused(head: Head, height: int, width: int) -> None:
    with pytest.raises(ModelError) as caught:
        build_critic((6, height, width), 5, design(head))
    assert f"a {head} critic on a hidden layer of {height}x{width} cannot reduce it to 4x4" in caught.value.problem
    assert "critics.pool_to" in caught.value.fix


@pytest.mark.parametrize(("height", "width"), [(12, 12), (8, 16), (4, 8)])
def test_halving_needs_the_same_power_of_two_both_ways(height: int, width: int) -> None:
    with pytest.raises(ModelError) as caught:
        build_critic((6, height, width), 5, design("strided"))
    assert caught.value.problem == f"a strided critic on a hidden layer of {height}x{width} cannot halve it to 4x4"
    assert "power of 2" in caught.value.fix


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("pooled", ["AveragePool", "Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"]),
        ("global", ["AveragePool", "Conv2d", "BatchNorm2d", "ReLU", "AveragePool", "Flatten", "Linear"]),
        ("separable", ["AveragePool", "Conv2d", "Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"]),
        ("strided", [*["Conv2d", "BatchNorm2d", "ReLU"] * 2, "Flatten", "Linear"]),
    ],
)
def test_only_batch_norm_mixes_samples(head: Head, expected: list[str]) -> None:
    plain, mixing = (build_critic((6, 4, 4), 5, design(head, pool_to=2, batch_norm=bn)) for bn in (False, True))
    assert layers(mixing) == expected
    before_norm = [mixing[i] for i, name in enumerate(expected[1:]) if name == "BatchNorm2d"]
    assert [convolution.bias for convolution in before_norm] == [None] * len(before_norm)
    assert (mixes_samples(plain), mixes_samples(mixing)) == (False, True)


def test_other_layers_mix_samples_as_well_or_do_not() -> None:
    assert mixes_samples(nn.SyncBatchNorm(3))
    assert not mixes_samples(nn.Sequential(nn.GroupNorm(1, 3), nn.LayerNorm(3), nn.Dropout()))


class _SideBySide(nn.Module):
    def __init__(self, critics: list[nn.Module]) -> None:
        super().__init__()
        self.critics = nn.ModuleList(critics)

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        return tuple(critic(hidden) for critic in self.critics)


def test_every_head_is_exported_to_what_phones_know_and_says_the_same() -> None:
    heads: list[Head] = ["paper", "pooled", "global", "separable", "strided", "msdnet"]
    critics = [build_critic((6, 8, 8), 5, design(head, batch_norm=True)) for head in heads]
    torch.manual_seed(0)
    for layer in nn.ModuleList(critics).modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    model = export_module(_SideBySide(critics).eval(), (6, 8, 8), heads)
    assert {node.op_type for node in model.graph.node} == PHONE_OPS  # BatchNorm is part of the convolutions
    hidden = np.random.default_rng(0).random((3, 6, 8, 8), dtype=np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for said, critic in zip(session.run(None, {"image": hidden}), critics, strict=True):
        np.testing.assert_allclose(said, critic(torch.from_numpy(hidden)).detach().numpy(), atol=1e-5)


@pytest.mark.slow
def test_every_convolution_of_the_cheap_heads_can_be_int8(plain_logits: Callable[..., np.ndarray]) -> None:
    torch.manual_seed(0)
    heads: list[Head] = ["global", "separable", "strided"]
    critics = [build_critic((6, 8, 8), 5, design(head)) for head in heads]
    same_size = [nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()) for _ in heads[1:]]
    groups = [nn.Conv2d(3, 6, 3, padding=1), *same_size, nn.Sequential(nn.Flatten(), nn.Linear(6 * 64, 5))]
    stages = export_stages(Network(nn.Identity(), groups, critics).eval(), range(len(heads)), (3, 8, 8))
    images = np.random.default_rng(0).random((32, 3, 8, 8), dtype=np.float32)
    reduced = reduce(stages, "int8", images)  # raises if onnxruntime would compute a convolution in floats
    assert reduced.quantization.int8_convolutions >= len(heads) + 1 + 2 + 2  # average pools may become some as well
    floats, integers = plain_logits(stages, images), plain_logits(reduced.stages, images)
    assert float(np.abs(integers - floats).max()) < 0.05 * float(np.abs(floats).max())
