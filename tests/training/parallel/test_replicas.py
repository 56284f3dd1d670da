"""Several processes that share every batch train as one does."""

from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lcprune import recipe
from lcprune.data.loaders import TrainLoader
from lcprune.data.sources import Split
from lcprune.errors import RecipeError
from lcprune.models import Network, build
from lcprune.training import averaging
from lcprune.training.freezing import Freezer
from lcprune.training.methods import build_method
from lcprune.training.optim import build_optimizers
from lcprune.training.parallel import Coordinator
from lcprune.training.parallel.batch_norm import reduce_statistics
from lcprune.training.parallel.replicas import Replicas
from lcprune.training.predicting import predict_logits
from lcprune.training.step import EagerStep

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("replicas")]

Ranks = Callable[[Callable[[], Any], int], list[Any]]
BATCH = 12
STEPS = 5
SHAPE = (1, 8, 8)
SMALL = (
    "model.width=0.0625",
    "critics.head=pooled",
    "critics.channels=4",
    "critics.pool_to=1",
    "train.iterations=5",
    "train.lr=0.05",
)

METHODS: dict[str, tuple[str, ...]] = {
    "backprop": ("train.method=backprop",),
    "deep supervision": ("train.method=deep_supervision", "critics.weight_schedule=decay", "critics.distill=0.5"),
    "local critic": (),
    "local critic, lean": ("train.memory=lean", "critics.distill=0.3"),
    "local critic, mixed loss, adam": ("critics.loss=mix", "critics.one_sided=true", "train.optimizer=adam"),
    "local critic, cross-entropy": ("critics.loss=cross_entropy",),
    "local critic, seldom": ("critics.update_every=2",),
    "local critic, frozen": ("train.freeze=[1,3]",),
    "local critic, warm-up": ("train.critic_warmup=2",),
    "critic": ("train.method=critic", "critics.update_every=3"),
    "sobolev": ("train.method=sobolev_local_critic", "critics.update_every=2"),
    "sobolev, main": ("train.method=sobolev_critic",),
    "sobolev, frozen": ("train.method=sobolev_critic", "train.freeze=1"),
    "dni": ("train.method=dni", "critics.update_every=2", "critics.condition_on_label=true"),
    "backprop, frozen": ("train.method=backprop", "train.freeze=[1,3]"),
    "dni, frozen": ("train.method=dni", "train.freeze=1"),
    "local critic, whitening": ("model.whiten=true",),
}
WITH_BATCH_NORM_ALONE: dict[str, tuple[str, ...]] = {
    "critics too": ("critics.batch_norm=true",),
    "critics too, sobolev": ("critics.batch_norm=true", "train.method=sobolev_local_critic"),
    "critics too, sobolev, main": ("critics.batch_norm=true", "train.method=sobolev_critic"),
}


WITHOUT_BATCH_NORM = (
    "backprop",
    "deep supervision",
    "local critic",
    "critic",
    "sobolev",
    "dni",
    "local critic, frozen",
)
"""Tried in both ways: with it, the statistics are shared besides the gradients."""
CASES = [*product(WITHOUT_BATCH_NORM, (False,)), *product(METHODS | WITH_BATCH_NORM_ALONE, (True,))]
OF_THREE = ("backprop", "local critic", "local critic, lean", "critics too, sobolev", "dni")
"""What three processes try too: each takes its time."""


def without_batch_norm(network: Network) -> Network:
    for parent in network.modules():
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    return network


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    images = torch.rand(BATCH, *SHAPE, generator=generator, dtype=torch.float64)
    return images, torch.randint(10, (BATCH,), generator=generator)


def trained(
    overrides: tuple[str, ...],
    *,
    has_batch_norm: bool,
    rows: slice = slice(None),
    replicas: Replicas | None = None,
    before: Callable[[Network], None] = lambda _: None,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Weights and statistics after `STEPS` steps in float64, and the losses of each step."""
    torch.manual_seed(0)
    loaded = recipe.load("digits", [*SMALL, *overrides])
    network = build(loaded, 10, SHAPE, (0.5,), (0.25,)).double()
    if not has_batch_norm:
        without_batch_norm(network)
    before(network)
    method = build_method(loaded, network, STEPS)
    optimizers = build_optimizers(loaded, network)
    if replicas is not None:
        replicas.average_gradients(optimizers)
    step = EagerStep(method, optimizers, torch.device("cpu"), bf16=False)
    freezer = Freezer(loaded, network)
    losses = []
    for number in range(STEPS):
        freezer.set(number)
        images, labels = batch(number)
        of_step = step(images[rows], labels[rows], number)
        losses.append(torch.cat([of_step.exits, of_step.critics]))
    return {name: value.clone() for name, value in network.state_dict().items()}, losses


def one_and_several(overrides: tuple[str, ...], *, has_batch_norm: bool, shares_gradients: bool = True) -> float:
    """Largest difference between this process alone with the whole batch and the group with a share each."""
    group = dist.group.WORLD
    replicas = Replicas(group)
    whole, whole_losses = trained(overrides, has_batch_norm=has_batch_norm)
    shared, losses = trained(
        overrides,
        has_batch_norm=has_batch_norm,
        rows=replicas.rows(BATCH),
        replicas=replicas if shares_gradients else None,
        before=lambda network: reduce_statistics(network, group) if has_batch_norm else None,
    )
    assert list(whole) == list(shared)
    gaps = [(whole[name] - shared[name]).abs().max().item() for name in whole]
    gaps += [(one - replicas.mean(own)).abs().max().item() for one, own in zip(whole_losses, losses, strict=True)]
    return max(gaps)


def work() -> dict[str, Any]:
    replicas = Replicas(dist.group.WORLD)
    found: dict[str, Any] = {"rank": (replicas.rank, replicas.size), "rows": replicas.rows(BATCH)}
    found["gaps"] = {
        (name, has): one_and_several((METHODS | WITH_BATCH_NORM_ALONE)[name], has_batch_norm=has)
        for name, has in CASES
        if replicas.size == 2 or name in OF_THREE
    }
    found["gap without replicas"] = one_and_several((), has_batch_norm=False, shares_gradients=False)
    found["gap of statistics"] = settled()
    found["mean"] = replicas.mean(torch.tensor([1.0, 2.0]) * (replicas.rank + 1)).tolist()
    found["broadcast"] = of_the_first(replicas)
    found["logits"] = [shared_logits(replicas, count) for count in (1, 2, 7, 12)]
    return found


def settled() -> float:
    """Difference in BatchNorm's statistics after weights were averaged, where every process gets a share."""
    images = np.random.default_rng(0).integers(0, 256, (3 * BATCH, *SHAPE), dtype=np.uint8)
    split = Split(images, np.arange(len(images)) % 10)
    loaded = recipe.load("digits", [*SMALL, "train.average=0.5"])
    replicas = Replicas(dist.group.WORLD)
    found = []
    for rows in (None, replicas.rows(BATCH)):
        torch.manual_seed(0)
        network = build(loaded, 10, SHAPE, (0.5,), (0.25,))
        average = AveragedModel(network)
        if rows is not None:
            reduce_statistics(network, dist.group.WORLD)
        averaging.collect(average, network, loaded, 5, 5)
        loader = TrainLoader(split, BATCH, "crop_flip", 1, 0, "cpu", rows=rows)
        averaging.settle(average, network, loader, 5)
        found.append(network.state_dict())
    return max((one.double() - found[1][name].double()).abs().max().item() for name, one in found[0].items())


def of_the_first(replicas: Replicas) -> float:
    weight = nn.Parameter(torch.tensor([1.0 + replicas.rank]))
    replicas.broadcast([weight])
    return weight.item()


def shared_logits(replicas: Replicas, count: int) -> tuple[tuple[int, ...], float]:
    """Shape, and largest difference from one process's."""
    loaded = recipe.load("digits", SMALL)
    network = build(loaded, 10, SHAPE, (0.5,), (0.25,))
    images = np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    split = Split(images, np.arange(count))
    mesh: Any = SimpleNamespace(rank=replicas.rank, world_size=replicas.size, stages=1, replicas=replicas.size)
    mesh.replica_group = dist.group.WORLD
    logits = Coordinator(mesh=mesh).predict_logits(network, split, channels_last=False)
    alone = predict_logits(network, split, torch.device("cpu"), channels_last=False)
    return tuple(logits.shape), (logits - alone).abs().max().item()


@pytest.fixture(scope="module", params=[2, 3])
def several(request: pytest.FixtureRequest, ranks: Ranks) -> list[dict[str, Any]]:
    return ranks(work, request.param)


@pytest.mark.parametrize(("name", "has_batch_norm"), CASES)
def test_steps_are_those_of_one_process(several: list[dict[str, Any]], name: str, has_batch_norm: bool) -> None:
    for found in several:
        if len(several) == 2 or name in OF_THREE:
            assert found["gaps"][name, has_batch_norm] < 1e-7  # in float64


def test_without_replicas_they_are_not(several: list[dict[str, Any]]) -> None:
    assert all(found["gap without replicas"] > 1e-3 for found in several)


def test_averaged_weights_get_the_statistics_of_whole_batches(several: list[dict[str, Any]]) -> None:
    assert all(found["gap of statistics"] < 1e-5 for found in several)


def test_means_and_shares(several: list[dict[str, Any]]) -> None:
    size = len(several)
    assert [found["rank"] for found in several] == [(rank, size) for rank in range(size)]
    rows = [number for found in several for number in range(BATCH)[found["rows"]]]
    assert rows == list(range(BATCH))
    middle = (size + 1) / 2  # of 1, 2, ..
    assert all(found["mean"] == [middle, 2 * middle] for found in several)


def test_weights_are_those_of_the_first(several: list[dict[str, Any]]) -> None:
    assert all(found["broadcast"] == 1.0 for found in several)


def test_everybody_gets_all_logits(several: list[dict[str, Any]]) -> None:
    for index, count in enumerate((1, 2, 7, 12)):
        for found in several:
            shape, gap = found["logits"][index]
            assert shape == (4, count, 10)
            assert gap < 1e-5


def test_a_batch_that_cannot_be_shared_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_rank", lambda _: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda _: 3)
    replicas = Replicas(object())
    assert replicas.rows(6) == slice(2, 4)
    with pytest.raises(RecipeError) as caught:
        replicas.rows(8)
    assert caught.value.problem == "data.batch_size is 8, which 3 replicas cannot share evenly"
    assert caught.value.fix == "set data.batch_size to 6 or 9, or start another number of processes"
    with pytest.raises(RecipeError, match="set data.batch_size to 3, or"):
        replicas.rows(2)
