"""The step: eager, and recorded once and replayed. A stand-in for CUDA graphs replays on the CPU."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lcprune import recipe as recipes
from lcprune.models import Network, build
from lcprune.specs import METHODS
from lcprune.training.methods import Losses, build_method
from lcprune.training.optim import build_optimizers, set_learning_rates
from lcprune.training.step import GRAPH_WARMUP, EagerStep, GraphedStep, Record, Work, build_step, record_cuda_graph

CPU = torch.device("cpu")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
STEPS = 8


def tiny(*overrides: str) -> recipes.Recipe:
    keys = ["model.width=0.06", "critics.channels=4", "critics.after=[2, 5]", "train.schedule=one_cycle", *overrides]
    return recipes.load("vgg_cifar10", keys)


def network_of(recipe: recipes.Recipe, device: torch.device = CPU) -> Network:
    return build(recipe, 5, (3, 8, 8), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)).train().to(device)


def batches(device: torch.device = CPU) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    return [
        (torch.rand(6, 3, 8, 8, generator=generator).to(device), torch.randint(5, (6,), generator=generator).to(device))
        for _ in range(STEPS)
    ]


class Recorder:
    """Stands for a CUDA graph: records without doing, and then does the same work on the same memory."""

    def __init__(self) -> None:
        self.groups: list[dict[str, object]] = []
        self.recorded = self.replayed = 0

    def __call__(self, work: Work) -> Work:
        self.recorded += 1
        recorded = [dict(group) for group in self.groups]  # rates in memory, which a replay reads again

        def replay() -> Losses:
            self.replayed += 1
            now = [dict(group) for group in self.groups]
            self._set(recorded)
            losses = work()
            self._set(now)
            return losses

        return replay

    def _set(self, settings: Sequence[dict[str, object]]) -> None:
        for group, values in zip(self.groups, settings, strict=True):
            group |= values


def train(recipe: recipes.Recipe, record: Record | None, device: torch.device = CPU) -> tuple[Network, Tensor]:
    """The network after some steps, and the losses of each; recorded, if `record` is given."""
    network = network_of(recipe, device)
    optimizers = build_optimizers(recipe, network)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    if isinstance(record, Recorder):
        record.groups = groups
    eager = EagerStep(build_method(recipe, network), optimizers, device, bf16=False)
    step = eager if record is None else GraphedStep(eager, optimizers, record)
    losses = []
    for number, (images, labels) in enumerate(batches(device)):
        set_learning_rates(recipe, optimizers, number, STEPS)
        found = step(images, labels, number)
        losses.append(torch.cat([found.exits, found.critics]).clone())
        assert all(type(group["lr"]) is float for group in groups)  # checkpoints hold numbers
    return network, torch.stack(losses)


@pytest.mark.parametrize("method", METHODS)
def test_a_recorded_step_trains_as_an_eager_one(method: str) -> None:
    recipe = tiny(f"train.method={method}")
    expected, expected_losses = train(recipe, None)
    recorder = Recorder()
    network, losses = train(recipe, recorder)
    assert (recorder.recorded, recorder.replayed) == (1, STEPS - GRAPH_WARMUP)
    for name, tensor in expected.state_dict().items():  # rates in memory are float32
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-4, atol=1e-5)


def test_a_graph_is_for_cuda_alone() -> None:
    recipe = tiny()
    network = network_of(recipe)
    optimizers = build_optimizers(recipe, network)
    step = build_step(build_method(recipe, network), optimizers, CPU, bf16=False, cuda_graph=True)
    assert isinstance(step, EagerStep)


def test_gradients_of_one_step_are_gone_in_the_next() -> None:
    recipe = tiny("critics.update_every=2")
    network = network_of(recipe)
    optimizers = build_optimizers(recipe, network)
    step = EagerStep(build_method(recipe, network), optimizers, CPU, bf16=False)
    images, labels = batches()[0]
    step(images, labels, 0)
    before = [parameter.clone() for parameter in network.critics.parameters()]
    step(images, labels, 1)  # critics do not learn at this one
    assert all(torch.equal(old, new) for old, new in zip(before, network.critics.parameters(), strict=True))


class Waits(TorchDispatchMode):
    """Refuses what makes the host wait for the device: a tensor's value as a Python number, a shape made of values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "bincount")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(name in str(func).split("::")[-1].split(".") for name in self.WAITING), f"{func} waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_in_a_step_waits_for_the_device(method: str) -> None:
    recipe = tiny(f"train.method={method}", "critics.head=pooled", "critics.pool_to=1", "train.optimizer=adam")
    network = network_of(recipe)
    optimizers = build_optimizers(recipe, network)
    step = EagerStep(build_method(recipe, network), optimizers, CPU, bf16=False)
    images, labels = batches()[0]
    with Waits():
        step(images, labels, 0)
        with pytest.raises(AssertionError, match="waits"):
            images.sum().item()


def test_bf16_is_near_fp32() -> None:
    recipe = tiny()
    losses = []
    for bf16 in (False, True):
        network = network_of(recipe)
        optimizers = build_optimizers(recipe, network)
        step = EagerStep(build_method(recipe, network), optimizers, CPU, bf16)
        losses.append(step(*batches()[0], 0).exits)
    assert not torch.equal(*losses)
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0.02)


@CUDA
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("overlap", [False, True])
def test_cuda_graphs_and_streams_train_as_eager_steps(method: str, overlap: bool) -> None:
    device = torch.device("cuda")
    recipe = tiny(f"train.method={method}", f"train.overlap={overlap}".lower())
    expected, expected_losses = train(tiny(f"train.method={method}"), None, device)
    network, losses = train(recipe, record_cuda_graph, device)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-3, atol=1e-4)
