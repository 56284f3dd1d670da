"""The loops that ours is held against do the same work, and the measured one is the training loop itself."""

import copy

import pytest
import torch
from torch import Tensor

from benchmarks import networks, steps
from lcprune.recipe import Recipe
from lcprune.training.methods import build_method
from lcprune.training.parallel import Coordinator

CPU = torch.device("cpu")
TINY = ("model.width=0.05", "critics.channels=4", "critics.head=pooled", "data.batch_size=6")


def tiny(method: str, *overrides: str) -> Recipe:
    return networks.load("vgg_cifar10", [*TINY, f"train.method={method}", *overrides])


@pytest.mark.parametrize("batch_norm", ["false", "true"])
def test_the_plain_local_critic_has_the_gradients_of_ours(batch_norm: str) -> None:
    recipe = tiny("local_critic", f"critics.batch_norm={batch_norm}", "train.label_smoothing=0.1")
    ours = networks.make_network(recipe, CPU).double()
    plain = copy.deepcopy(ours)
    images, labels = torch.rand(6, 3, 32, 32, dtype=torch.float64), torch.arange(6)
    build_method(recipe, ours).backward(images, labels, 0)
    normalized = plain.normalize(images)
    loss = steps.local_critic_gradients(list(plain.groups), list(plain.critics), normalized, labels, 0.1)
    assert loss.isfinite()
    for own, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert own.grad is not None
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-7)  # the plain losses are in float32


@pytest.mark.parametrize("method", ["backprop", "local_critic"])
@pytest.mark.parametrize("loop", [steps.bare_loop, lambda *a: steps.plain_loop(*a, workers=0)])
def test_every_loop_trains_all_weights(method: str, loop, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    build = networks.make_network
    monkeypatch.setattr(steps, "make_network", lambda *a: made.append(build(*a)) or made[-1])
    recipe = tiny(method)
    side = loop(recipe, networks.noise(recipe, 24), CPU)
    before = [parameter.detach().clone() for parameter in made[0].parameters()]
    assert side(3) > 0
    assert all(not torch.equal(a, b) for a, b in zip(before, made[0].parameters(), strict=True))


def test_ours_is_the_training_loop_which_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    batch = steps.TrainLoader.batch

    def noted(self: steps.TrainLoader, step: int) -> tuple[Tensor, Tensor]:
        asked.append(step)
        return batch(self, step)

    monkeypatch.setattr(steps.TrainLoader, "batch", noted)
    recipe = tiny("backprop")
    ours = steps.Ours(recipe, networks.noise(recipe, 24), Coordinator(CPU))
    assert ours(2) > 0
    assert asked == [0, 1]
    laps = ours.laps([1, 3])
    assert asked == [0, 1, 2, 3, 4, 5]
    assert len(laps) == 2
    assert min(laps) > 0


def test_a_dataloader_with_a_worker_gives_normalised_batches() -> None:
    recipe = tiny("backprop", "train.channels_last=true")
    split = networks.noise(recipe, 24)
    (images, labels), *_ = steps._data_loader(recipe, split, workers=1)
    assert images.shape == (6, 3, 32, 32)
    assert images.is_contiguous()
    assert images.min() == -2  # (0 - 0.5) / 0.25, which is black
    assert labels.dtype == torch.int64


def test_deep_supervision_is_not_written_down_as_a_plain_loop() -> None:
    recipe = tiny("deep_supervision")
    with pytest.raises(ValueError, match="only backprop and local_critic"):
        steps.bare_loop(recipe, networks.noise(recipe, 24), CPU)
