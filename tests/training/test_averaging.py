"""Averaged weights: which steps go in, what comes out, and the BatchNorm statistics that fit them."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lcprune import recipe as recipes
from lcprune.data.loaders import TrainLoader
from lcprune.data.sources import Split
from lcprune.models import Network, build
from lcprune.recipe import Recipe
from lcprune.training import averaging
from lcprune.training.averaging import collect, first_step, previewed, settle, share_from_before
from lcprune.training.freezing import Freezer


def recipe_of(average: float, every: int) -> Recipe:
    return recipes.load("digits", [f"train.average={average}", f"train.average_every={every}"])


def small_network(batch_norm: bool = True) -> Network:
    """Two exits; BatchNorm in the trunk and in the critic."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        groups = [nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3)), nn.Linear(3, 2)]
        critic = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3) if batch_norm else nn.Identity(), nn.Linear(3, 2))
        return Network(nn.Identity(), groups, [critic])


def loader_of(count: int = 10) -> TrainLoader:
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 2, 2), dtype=np.uint8)
    return TrainLoader(
        Split(images, np.arange(count) % 2), batch_size=2, augment="crop_flip", pad=1, seed=0, device="cpu"
    )


def members(average: float, every: int, iterations: int) -> list[int]:
    """After which steps weights go in, seen from outside."""
    network, recipe = small_network(), recipe_of(average, every)
    mean = AveragedModel(network)
    counts = [0]
    for step in range(1, iterations + 1):
        collect(mean, network, recipe, step, iterations)
        counts.append(int(mean.n_averaged))
    assert counts[-1] == len(set(counts)) - 1
    return [step for step in range(1, iterations + 1) if counts[step] > counts[step - 1]]


@pytest.mark.parametrize(
    ("average", "every", "iterations", "expected"),
    [
        (0.25, 10, 100, [80, 90, 100]),  # the last quarter begins after step 75
        (0.3, 1, 10, [8, 9, 10]),
        (0.01, 50, 20, [20]),  # less than a step: the last one
        (0.99, 7, 10, [3, 10]),
    ],
)
def test_which_steps_go_in(average: float, every: int, iterations: int, expected: Sequence[int]) -> None:
    assert members(average, every, iterations) == list(expected)
    assert first_step(recipe_of(average, every), iterations) == expected[0]


def set_weights(network: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)


def test_the_network_gets_the_plain_mean() -> None:
    network, recipe = small_network(), recipe_of(0.5, 1)
    mean = AveragedModel(network)
    for step, value in enumerate([7.0, 7.0, 7.0, 1.0, 2.0, 6.0], start=1):
        set_weights(network, value)
        collect(mean, network, recipe, step, 6)
    assert {float(p.detach().mean()) for p in network.parameters()} == {6.0}  # untouched until the end
    settle(mean, network, loader_of(), 6)
    for parameter in network.parameters():
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, 3.0))  # (1 + 2 + 6) / 3


def test_a_longer_run_begins_its_average_anew() -> None:
    network, recipe = small_network(), recipe_of(0.5, 1)
    mean = AveragedModel(network)
    set_weights(network, 100.0)
    for step in range(1, 5):
        collect(mean, network, recipe, step, 4)
    set_weights(network, 1.0)
    for step in range(5, 21):
        collect(mean, network, recipe, step, 20)
    assert int(mean.n_averaged) == 10
    assert {float(p.detach().mean()) for p in mean.module.parameters()} == {1.0}


def test_a_moving_average_forgets_the_initial_weights_of_a_short_run() -> None:
    network, recipe = small_network(), recipes.load("digits", ["train.ema=0.2"])
    mean = AveragedModel(network)
    expected = 0.0
    for step, (value, decay) in enumerate([(8.0, 0.0), (2.0, 2 / 11), (5.0, 0.2), (1.0, 0.2)], start=1):
        set_weights(network, value)
        collect(mean, network, recipe, step, 4)
        expected = decay * expected + (1 - decay) * value  # (1 + n) / (10 + n): 0.1, 2 / 11, 0.25 ...
    assert int(mean.n_averaged) == 4
    for parameter in mean.module.parameters():
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected))


@pytest.mark.parametrize("collected", [False, True])
def test_a_preview_is_what_a_run_would_write_and_leaves_everything_as_it_was(collected: bool) -> None:
    network, loader = small_network(), loader_of()
    network.critics[0].append(nn.Dropout(0.5))
    mean = AveragedModel(network)
    if collected:
        mean.update_parameters(network)
        set_weights(network, 3.0)
    network.groups[0][2].running_mean.fill_(50)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    drawn = torch.get_rng_state()
    written = copy.deepcopy(network)
    settle(mean, written, loader, 6)
    torch.set_rng_state(drawn)
    with previewed(mean, network, loader, 6):
        expected = written.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
        assert not torch.equal(network.groups[0][2].running_mean, before["groups.0.2.running_mean"])
        assert torch.equal(network.groups[1].weight, before["groups.1.weight"]) != collected
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_share_of_statistics_from_before_training_is_that_of_the_slowest_layer() -> None:
    network = small_network()
    assert share_from_before(network, 3) == pytest.approx(0.9**3)
    network.critics[0][1].momentum = 0.01
    assert share_from_before(network, 100) == pytest.approx(0.99**100)
    network.critics[0][1].eval()  # frozen
    network.groups[0][2].momentum = None
    assert share_from_before(network, 3) == 0


def test_statistics_are_means_over_the_batches_that_would_have_followed() -> None:
    network, recipe, loader = small_network(), recipe_of(0.5, 1), loader_of()
    mean = AveragedModel(network)
    collect(mean, network, recipe, 6, 6)
    trunk, critic = network.groups[0][2], network.critics[0][1]
    trunk.running_mean.fill_(50)  # nothing of what was there remains
    settle(mean, network, loader, 6)
    batches = [loader.batch(step)[0] for step in range(6, 11)]  # an epoch has five
    with torch.no_grad():
        inner = [network.groups[0][:2](images) for images in batches]  # (2, 3) each
        torch.testing.assert_close(trunk.running_mean, torch.stack([x.mean(0) for x in inner]).mean(0))
        torch.testing.assert_close(trunk.running_var, torch.stack([x.var(0) for x in inner]).mean(0))
    assert int(trunk.num_batches_tracked) == int(critic.num_batches_tracked) == 5
    assert critic.running_mean.any()
    assert trunk.momentum == critic.momentum == 0.1


def test_no_more_batches_than_stated() -> None:
    network = small_network()
    mean = AveragedModel(network)
    assert averaging.BATCHES == 100
    settle(mean, network, loader_of(), 6, batches=3)
    assert int(network.groups[0][2].num_batches_tracked) == 3


def test_statistics_of_frozen_groups_are_left_alone() -> None:
    overrides = ["model.width=0.0625", "critics.channels=4", "train.freeze=1", "train.average=0.5"]
    loaded = recipes.load("digits", overrides)
    network = build(loaded, 10, (1, 8, 8), (0.5,), (0.25,))
    Freezer(loaded, network).set(0)
    norms = [part for part in network.groups.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    momenta = [norm.momentum for norm in norms]
    averaging._update_statistics(network, iter([torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)]))
    changed = [not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]
    assert changed == [False] * 2 + [True] * 9
    assert [norm.momentum for norm in norms] == momenta
    assert norms[-1].num_batches_tracked == 2
