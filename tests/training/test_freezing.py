"""Fine-tuning: frozen groups, learning rates by group, critics that warm up."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lcprune import recipe, runs
from lcprune.models import Network, build
from lcprune.pipeline import train as pipeline
from lcprune.recipe import Recipe
from lcprune.training.freezing import Freezer
from lcprune.training.methods import build_method
from lcprune.training.optim import build_optimizers, set_learning_rates
from lcprune.training.step import EagerStep

WITH_CRITICS = ("local_critic", "deep_supervision", "critic", "sobolev_local_critic", "sobolev_critic")
SHAPE = (1, 8, 8)
SMALL = ("model.width=0.0625", "critics.head=pooled", "critics.channels=4", "critics.pool_to=1", "train.iterations=4")
Weights = dict[str, Tensor]


def made(*overrides: str) -> tuple[Recipe, Network]:
    loaded = recipe.load("digits", [*SMALL, *overrides])
    return loaded, build(loaded, 10, SHAPE, (0.5,), (0.25,))


def trained(steps: int, *overrides: str) -> tuple[Network, list[Weights]]:
    """The network, and its weights and statistics before the first step and after each."""
    loaded, network = made(*overrides)
    step = EagerStep(build_method(loaded, network), build_optimizers(loaded, network), torch.device("cpu"), bf16=False)
    freezer = Freezer(loaded, network)
    generator = torch.Generator().manual_seed(0)
    seen = [copy_of(network)]
    for index in range(steps):
        freezer.set(index)
        step(torch.rand(6, *SHAPE, generator=generator), torch.arange(6), index)
        seen.append(copy_of(network))
    return network, seen


def copy_of(network: Network) -> Weights:
    return {name: value.clone() for name, value in network.state_dict().items()}


def moved(before: Weights, after: Weights) -> set[str]:
    """Parts such as ``groups.0`` in which anything changed."""
    return {".".join(name.split(".")[:2]) for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("method", WITH_CRITICS)
@pytest.mark.parametrize(
    ("freeze", "still"),
    [("2", {"groups.0", "groups.1"}), ("[4]", {"groups.3"}), ("[1,3]", {"groups.0", "groups.2"})],
)
def test_a_frozen_group_keeps_weights_and_statistics(method: str, freeze: str, still: set[str]) -> None:
    network, seen = trained(2, f"train.method={method}", f"train.freeze={freeze}")
    everything = {f"groups.{index}" for index in range(4)} | {f"critics.{index}" for index in range(3)}
    assert moved(seen[0], seen[-1]) == everything - still
    frozen = [int(name[-1]) for name in still]
    assert [group.training for group in network.groups] == [index not in frozen for index in range(4)]


@pytest.mark.parametrize("method", ["backprop", "dni"])
def test_without_critics_the_groups_are_counted_as_with_them(method: str) -> None:
    network, seen = trained(2, f"train.method={method}", "train.freeze=2")
    changed = {".".join(name.split(".")[:3]) for name in seen[0] if not torch.equal(seen[0][name], seen[-1][name])}
    assert {name for name in changed if name.startswith("groups")} == {"groups.0.2", "groups.0.3"}
    assert [part.training for part in network.parts] == [False, False, True, True]
    free, _ = trained(1, f"train.method={method}")
    assert network.exit_names == free.exit_names == ("main",)


def test_a_sub_model_alone_may_be_frozen_in_part() -> None:
    _, seen = trained(2, "train.method=backprop", "model.submodel=2", "train.freeze=1")
    changed = {".".join(name.split(".")[:3]) for name in seen[0] if not torch.equal(seen[0][name], seen[-1][name])}
    assert changed == {"groups.0.1"}


@pytest.mark.parametrize("method", WITH_CRITICS)
def test_while_the_critics_warm_up_nothing_else_moves(method: str) -> None:
    critics = {"critics.0", "critics.1", "critics.2"}
    network, seen = trained(3, f"train.method={method}", "train.critic_warmup=2", "train.freeze=1")
    assert moved(seen[0], seen[2]) == critics
    assert moved(seen[2], seen[3]) == critics | {"groups.1", "groups.2", "groups.3"}
    assert [group.training for group in network.groups] == [False, True, True, True]


def test_what_never_learns_does_not_begin_to_after_a_warm_up() -> None:
    network, seen = trained(3, "train.critic_warmup=1", "model.whiten=true")
    assert torch.equal(seen[0]["groups.0.0.convolution.weight"], seen[3]["groups.0.0.convolution.weight"])
    assert not network.groups[0][0].convolution.weight.requires_grad


@pytest.mark.parametrize("method", ["local_critic", "backprop"])
def test_each_group_learns_at_a_fraction_of_the_rate_of_the_next(method: str) -> None:
    loaded, network = made("train.layer_decay=0.5", "train.lr=0.8", *CONSTANT, f"train.method={method}")
    optimizers = build_optimizers(loaded, network)
    assert set_learning_rates(loaded, optimizers, 0, 4) == 0.8
    rates = {id(p): group["lr"] for group in optimizers[0].param_groups for p in group["params"]}
    for part, rate in zip(network.parts, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert [rates[id(parameter)] for parameter in part.parameters()] == pytest.approx(
            [rate] * len(list(part.parameters()))
        )
    assert len(rates) == len(list(network.groups.parameters()))
    if method == "local_critic":
        assert {group["lr"] for group in optimizers[1].param_groups} == {loaded.critics.lr}


def test_scales_of_layers_have_no_weight_decay() -> None:
    text = "name: a\ndata: {source: imagefolder, image_size: 32}\ntrain: {iterations: 1}\n"
    loaded = recipe.parse(text, overrides=["model.trunk=torchvision/convnext_tiny", "critics.head=pooled"])
    network = build(loaded, 5, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    trunk, _ = build_optimizers(loaded, network)
    decayed = {id(p) for p in trunk.param_groups[0]["params"]}
    scales = [p for name, p in network.groups.named_parameters() if name.endswith("layer_scale")]
    layers = [part for part in network.groups.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(scales) == 18
    assert decayed == {id(layer.weight) for layer in layers}


CONSTANT = ("train.schedule=constant", "critics.schedule=constant")
SHORT = ("train.iterations=24", "train.critic_warmup=12", "train.checkpoint_every=8", "train.evaluate_every=12")
FINE = (*CONSTANT, *SHORT, "train.freeze=[2]", "train.layer_decay=0.7", "train.average=0.3")


@pytest.mark.parametrize("method", ["local_critic", "deep_supervision"])
def test_a_fine_tuning_that_was_stopped_goes_on_bit_equal(
    method: str, here: Path, train_tiny: Callable[..., Any]
) -> None:
    overrides = [*FINE, f"train.method={method}"]
    whole = train_tiny(here / "whole", *overrides).run
    for stop in (8, 16):  # in the warm-up, and after it
        run = train_tiny(here / f"cut{stop}", *overrides, f"train.iterations={stop}", "train.average=0").run
        text = (whole / runs.RECIPE).read_text(encoding="utf-8")
        (run / runs.RECIPE).write_text(text, encoding="utf-8")
        pipeline.resume(run, [], device="cpu", display=_silent, notice=lambda _: None)
        assert (run / runs.WEIGHTS).read_bytes() == (whole / runs.WEIGHTS).read_bytes()


def _silent(*_: Any) -> Any:
    class Quiet:
        def stepped(self, *_: Any) -> None: ...

        def evaluated(self, *_: Any) -> None: ...

    return nullcontext(Quiet())
