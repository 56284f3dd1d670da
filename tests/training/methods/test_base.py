"""The loss that all methods share, and how a recipe becomes a method."""

import math

import pytest
import torch

from lcprune import recipe
from lcprune.models import Network, build
from lcprune.training.methods import build_method
from lcprune.training.methods.base import sample_losses


def test_cross_entropy_of_each_sample() -> None:
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]], dtype=torch.float64)
    losses = sample_losses(logits, torch.tensor([0, 1]), 0.0)
    assert losses.tolist() == pytest.approx([math.log(4 / 3), math.log(4)])
    # a share of 0.2 over both classes: 0.9 of one loss and 0.1 of the other
    smoothed = sample_losses(logits, torch.tensor([0, 1]), 0.2)
    assert smoothed.tolist() == pytest.approx(
        [0.9 * math.log(4 / 3) + 0.1 * math.log(4), 0.9 * math.log(4) + 0.1 * math.log(4 / 3)]
    )


@pytest.mark.parametrize(
    ("given", "computed"), [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64,) * 2]
)
@pytest.mark.parametrize("autocast", [False, True])
def test_cross_entropy_is_never_computed_in_less_than_float32(
    given: torch.dtype, computed: torch.dtype, autocast: bool
) -> None:
    logits = torch.tensor([[9.0, 0.0, 0.0], [9.5, 0.0, 0.0]]).to(given)  # both are exact in bfloat16
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = sample_losses(logits, torch.tensor([0, 0]), 0.0)
    if not autocast or given is not torch.float64:  # autocast itself turns float64 into float32
        assert losses.dtype == computed
    expected = [math.log1p(2 * math.exp(-9.0)), math.log1p(2 * math.exp(-9.5))]
    assert losses.tolist() == pytest.approx(expected, rel=1e-3)


def network_of(*overrides: str) -> tuple[recipe.Recipe, Network]:
    loaded = recipe.load("digits", overrides)
    return loaded, build(loaded, 10, (1, 8, 8), (0.5,), (0.5,))


@pytest.mark.parametrize(
    ("base", "option"),
    [
        ("local_critic", "critics.loss=cascade"),
        ("local_critic", "critics.loss=mix"),
        ("local_critic", "train.label_smoothing=0.1"),
        ("local_critic", "critics.update_every=2"),
        ("local_critic critics.loss=cascade", "critics.one_sided=true"),
        ("local_critic", "critics.distill=0.5"),
        ("critic critics.loss=mix", "critics.mix=0.2"),
        ("critic critics.loss=mix", "train.method=local_critic"),
        ("critic", "critics.update_every=2"),
        ("critic", "train.label_smoothing=0.1"),
        ("sobolev_local_critic", "critics.sobolev=2"),
        ("sobolev_local_critic", "critics.loss=cascade"),
        ("sobolev_local_critic", "critics.distill=0.5"),
        ("sobolev_local_critic", "critics.update_every=2"),
        ("sobolev_local_critic", "train.label_smoothing=0.1"),
        ("sobolev_local_critic", "train.method=sobolev_critic"),
        ("dni", "critics.update_every=2"),
        ("dni", "train.label_smoothing=0.1"),
        ("dni", "critics.condition_on_label=true"),
        ("deep_supervision", "critics.weight=0.3"),
        ("deep_supervision", "critics.distill=0.25"),
        ("deep_supervision critics.distill=0.25", "critics.distill_temperature=5"),
        ("deep_supervision", "critics.weight_schedule=decay"),
        ("deep_supervision", "train.label_smoothing=0.1"),
        ("backprop", "train.label_smoothing=0.1"),
    ],
)
def test_every_option_of_the_recipe_reaches_the_method(base: str, option: str) -> None:
    """Each changes some gradient of a step."""
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4)
    grads = []
    method, *shared = base.split()
    for overrides in (shared, [*shared, option]):
        loaded, network = network_of(f"train.method={method}", *overrides)
        build_method(loaded, network).backward(images, labels, step=1)
        grads.append([parameter.grad for parameter in network.parameters()])
    assert not all(_same(a, b) for a, b in zip(*grads, strict=True))


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)
