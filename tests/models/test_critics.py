"""Critics, layer by layer."""

import pytest
import torch
from torch import nn

from lcprune.errors import ModelError
from lcprune.models import mixes_samples
from lcprune.models.critics import build_critic


def layers(critic: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in critic]


def test_the_papers_critic_convolves_at_full_resolution() -> None:
    critic = build_critic((6, 4, 6), 5, depth=2, channels=3, batch_norm=False, pool_to=None)
    assert layers(critic) == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Flatten", "Linear"]
    assert sum(parameter.numel() for parameter in critic.parameters()) == (
        (6 * 3 * 9 + 3) + (3 * 3 * 9 + 3) + (3 * 4 * 6 * 5 + 5)
    )
    assert critic(torch.zeros(2, 6, 4, 6)).shape == (2, 5)


def test_the_pooled_critic_averages_first_with_an_integer_kernel() -> None:
    critic = build_critic((6, 8, 12), 5, depth=1, channels=3, batch_norm=False, pool_to=4)
    assert layers(critic) == ["AveragePool", "Conv2d", "ReLU", "Flatten", "Linear"]
    assert critic[0].kernel_size == (2, 3)
    assert critic[-1].in_features == 3 * 4 * 4
    assert critic(torch.zeros(2, 6, 8, 12)).shape == (2, 5)


def test_a_hidden_layer_of_the_right_size_needs_no_pool() -> None:
    critic = build_critic((6, 4, 4), 5, depth=1, channels=3, batch_norm=False, pool_to=4)
    assert layers(critic) == ["Conv2d", "ReLU", "Flatten", "Linear"]


@pytest.mark.parametrize(("height", "width"), [(6, 8), (8, 6), (2, 2), (4, 2)])
def test_a_pool_that_does_not_divide_or_would_enlarge_is_refused(height: int, width: int) -> None:
    with pytest.raises(ModelError) as caught:
        build_critic((6, height, width), 5, depth=1, channels=3, batch_norm=False, pool_to=4)
    assert f"{height}x{width} cannot average it to 4x4" in caught.value.problem
    assert "critics.pool_to" in caught.value.fix


def test_only_batch_norm_mixes_samples() -> None:
    plain, mixing = (build_critic((6, 4, 4), 5, depth=1, channels=3, batch_norm=bn, pool_to=2) for bn in (False, True))
    assert layers(mixing) == ["AveragePool", "Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"]
    assert mixing[1].bias is None
    assert (mixes_samples(plain), mixes_samples(mixing)) == (False, True)
    assert mixes_samples(nn.SyncBatchNorm(3))
    assert not mixes_samples(nn.Sequential(nn.GroupNorm(1, 3), nn.LayerNorm(3), nn.Dropout()))
