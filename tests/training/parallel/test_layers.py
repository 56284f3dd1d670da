"""Layer groups that learn in processes of their own learn what one process would; here the processes are threads."""

import random
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Queue
from typing import Any

import pytest
import torch
from torch import Tensor

from lcprune import recipe as recipes
from lcprune.models import Network, build
from lcprune.recipe import Recipe
from lcprune.training.checkpoint import TrainingState
from lcprune.training.methods import build_method
from lcprune.training.methods.base import sample_losses
from lcprune.training.methods.critic_loss import ExitOutput, critic_loss
from lcprune.training.optim import build_optimizers
from lcprune.training.parallel.layers import LayerParallel, Links
from lcprune.training.parallel.parts import part_of
from lcprune.training.step import EagerStep

BATCH, STEPS, SHAPE = 6, 7, (1, 8, 8)
SMALL = (
    "model.width=0.0625",
    "critics.channels=4",
    "critics.pool_to=1",
    "critics.loss=cascade",
    "train.lr=0.05",
    "train.channels_last=false",
)
TWO, THREE, FOUR = (
    (range(2), range(2, 4)),
    (range(1), range(1, 3), range(3, 4)),
    tuple(range(n, n + 1) for n in range(4)),
)


@dataclass
class Pipe:
    """One direction between two threads; both a `Sender` and a `Receiver`."""

    depth: int
    taken: list[tuple[int, int]] = field(default_factory=list)
    """Step at which a message was taken, and its own."""
    now: int = 0
    draws: random.Random | None = None
    is_closed: bool = False

    def __post_init__(self) -> None:
        self._queue: Queue[tuple[int, Tensor]] = Queue(self.depth)

    def send(self, step: int, tensor: Tensor) -> None:
        assert not tensor.requires_grad
        if self.draws is not None:
            time.sleep(self.draws.random() * 0.01)
        self._queue.put((step, tensor.clone()), timeout=120)

    def receive(self, step: int) -> Tensor:
        sent, tensor = self._queue.get(timeout=120)
        assert sent == step
        self.taken.append((self.now, step))
        return tensor

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Run:
    """What a training left."""

    weights: dict[str, Tensor]
    exits: list[Tensor]
    critics: list[Tensor]
    back: list[Pipe] = field(default_factory=list)


def recipe(*overrides: str) -> Recipe:
    return recipes.load("digits", [*SMALL, *overrides])


def whole(loaded: Recipe) -> TrainingState:
    torch.manual_seed(0)
    network = build(loaded, 10, SHAPE, (0.5,), (0.25,)).double()
    return TrainingState(network, build_optimizers(loaded, network))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(BATCH, *SHAPE, generator=generator, dtype=torch.float64)
    return images, torch.randint(10, (BATCH,), generator=generator)


def alone(loaded: Recipe) -> Run:
    state = whole(loaded)
    step = EagerStep(build_method(loaded, state.network), state.optimizers, torch.device("cpu"), bf16=False)
    losses = [step(*batch(number), number) for number in range(STEPS)]
    return Run(weights_of(state.network), [one.exits for one in losses], [one.critics for one in losses])


def weights_of(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def in_threads(
    loaded: Recipe, held: tuple[range, ...], staleness: int = 0, drained: tuple[int, ...] = (), seed: int | None = None
) -> Run:
    """Every range of layer groups in a thread of its own; all critics catch up after the steps in `drained`."""
    loss = critic_loss(loaded.critics)
    forward = [Pipe(staleness + 1, draws=None if seed is None else random.Random(seed)) for _ in held[1:]]
    back = [Pipe(staleness + 1, draws=None if seed is None else random.Random(seed + 1)) for _ in held[1:]]

    def work(stage: int) -> tuple[dict[str, Tensor], list[Any]]:
        links = Links(
            hidden_in=forward[stage - 1] if stage else None,
            hidden_out=forward[stage] if stage < len(held) - 1 else None,
            losses_in=back[stage] if stage < len(held) - 1 and loss.waits else None,
            losses_out=back[stage - 1] if stage and loss.waits else None,
        )
        with LOCK:
            full = whole(loaded)  # draws from the generator that all threads share
            method = LayerParallel(build_method(loaded, full.network), held[stage], links, staleness=staleness)
            state = part_of(full, loaded, held[stage])
        step = EagerStep(method, state.optimizers, torch.device("cpu"), bf16=False)
        losses = []
        for number in range(STEPS):
            images, labels = batch(number)
            if stage < len(held) - 1:
                back[stage].now = number
            losses.append(step(torch.empty(0) if stage else images, labels, number))
            if number + 1 in (*drained, STEPS):
                method.drain(state.optimizers)
                assert not method._late
        method.close()
        return weights_of(state.network), losses

    with ThreadPoolExecutor(len(held)) as pool:
        found = [future.result(timeout=300) for future in [pool.submit(work, stage) for stage in range(len(held))]]
    weights: dict[str, Tensor] = {}
    for part, _ in found:
        weights |= part
    exits, critics = (
        [torch.cat([getattr(losses[number], kind) for _, losses in found]) for number in range(STEPS)]
        for kind in ("exits", "critics")
    )
    assert all(pipe.is_closed for pipe in (*forward, *(back if loss.waits else ())))
    return Run(weights, exits, critics, back)


LOCK = threading.Lock()


def by_hand(loaded: Recipe, late_critics: set[int], staleness: int, drained: tuple[int, ...] = ()) -> Run:
    """One process that keeps the gradients of some critics for `staleness` steps; plain autograd, no method of ours."""
    state = whole(loaded)
    network, loss = state.network, critic_loss(loaded.critics)
    waiting: dict[int, deque[tuple[Tensor, ...]]] = {critic: deque() for critic in late_critics}
    for number in range(STEPS):
        forget(state)
        images, labels = batch(number)
        hidden, outputs = network.normalize(images), []
        for index, group in enumerate(network.groups):
            output = group(hidden)
            logits = network.critics[index](output) if index < len(network.critics) else output
            outputs.append(ExitOutput(logits, sample_losses(logits, labels, 0.0)))
            hidden = output.detach()
        for index, group in enumerate(network.groups):
            give(group, torch.autograd.grad(outputs[index].losses.mean(), tuple(group.parameters()), retain_graph=True))
        for index, critic in enumerate(network.critics):
            value = loss.of_samples(outputs[index], outputs[index + 1]).mean()
            gradients: tuple[Tensor, ...] = torch.autograd.grad(value, tuple(critic.parameters()), retain_graph=True)
            if number % loaded.critics.update_every:
                gradients = ()
            if index in waiting:
                waiting[index].append(gradients)
                gradients = waiting[index].popleft() if len(waiting[index]) > staleness else ()
            if gradients:
                give(critic, gradients)
        for optimizer in state.optimizers:
            optimizer.step()
        if number + 1 in (*drained, STEPS):
            for index, kept in waiting.items():
                while kept:
                    forget(state)
                    if gradients := kept.popleft():
                        give(network.critics[index], gradients)
                    for optimizer in state.optimizers:
                        optimizer.step()
    return Run(weights_of(network), [], [])


def forget(state: TrainingState) -> None:
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)


def give(part: torch.nn.Module, gradients: tuple[Tensor, ...]) -> None:
    for weight, gradient in zip(part.parameters(), gradients, strict=True):
        weight.grad = gradient


def gap(one: Run, other: Run) -> float:
    """The largest difference between weights and statistics."""
    assert set(one.weights) == set(other.weights)
    return max((value - other.weights[name]).abs().max().item() for name, value in one.weights.items())


RECIPES: dict[str, tuple[str, ...]] = {
    "plain": (),
    "BatchNorm in critics": ("critics.batch_norm=true",),
    "seldom": ("critics.update_every=2",),
    "one-sided, lean": ("critics.one_sided=true", "train.memory=lean"),
    "cross-entropy": ("critics.loss=cross_entropy",),
    "mix, adam": ("critics.loss=mix", "train.optimizer=adam", "train.lr=0.001"),
    "frozen": ("train.freeze=[1,3]",),
    "label smoothing": ("train.label_smoothing=0.1",),
}


@pytest.mark.parametrize("name", RECIPES)
def test_without_staleness_it_is_one_process(name: str) -> None:
    loaded = recipe(*RECIPES[name])
    one = alone(loaded)
    for held in (TWO, THREE, FOUR):
        several = in_threads(loaded, held)
        assert gap(several, one) < 1e-9
        torch.testing.assert_close(torch.stack(several.exits), torch.stack(one.exits), rtol=0, atol=1e-9)
        torch.testing.assert_close(torch.stack(several.critics), torch.stack(one.critics), rtol=0, atol=1e-9)


@pytest.mark.parametrize("staleness", [1, 2, 3])
@pytest.mark.parametrize(("held", "late"), [(TWO, {1}), (FOUR, {0, 1, 2})])
def test_a_critic_at_a_cut_learns_late_from_the_same_batch(
    held: tuple[range, ...], late: set[int], staleness: int
) -> None:
    for overrides in ((), ("critics.batch_norm=true",)):
        several = in_threads(recipe(*overrides), held, staleness)
        assert gap(several, by_hand(recipe(*overrides), late, staleness)) < 1e-9
        assert gap(several, alone(recipe(*overrides))) > 1e-6  # it is not the same training
        for pipe in several.back:
            at_their_step = [(number + staleness, number) for number in range(STEPS - staleness)]
            at_the_end = [(STEPS - 1, number) for number in range(STEPS - staleness, STEPS)]
            assert pipe.taken == at_their_step + at_the_end


def test_before_a_checkpoint_nothing_is_late() -> None:
    for overrides in ((), ("critics.update_every=2", "train.optimizer=adam", "train.lr=0.001")):
        loaded = recipe(*overrides)
        drained = in_threads(loaded, THREE, 2, drained=(1, 4))
        assert gap(drained, by_hand(loaded, {0, 2}, 2, drained=(1, 4))) < 1e-9
        assert gap(drained, in_threads(loaded, THREE, 2)) > 1e-9  # what was learnt at another step was learnt otherwise


def test_losses_of_late_critics_are_those_of_the_steps_before() -> None:
    now, late = (
        in_threads(recipe("critics.lr=1e-12"), TWO),
        in_threads(recipe("critics.lr=1e-12"), TWO, 2, drained=(4,)),
    )
    assert [losses[1].item() for losses in late.critics[:2]] == [0.0, 0.0]
    torch.testing.assert_close(
        torch.stack(late.critics)[2:, 1], torch.stack(now.critics)[:-2, 1], rtol=0, atol=1e-9
    )  # of critics that do not change


def test_who_is_fast_does_not_matter() -> None:
    first, second = (in_threads(recipe(), FOUR, 2, seed=seed) for seed in (1, 2))
    assert gap(first, second) == 0


def test_what_a_run_that_goes_back_has_learnt_early_is_forgotten() -> None:
    method = LayerParallel(build_method(recipe(), whole(recipe()).network), range(2), Links(), staleness=1)
    method._learnt_early.append(torch.tensor(float("nan")))
    method.forget()
    assert not method._learnt_early


def test_critics_that_distil_are_refused() -> None:
    loaded = recipe("critics.distill=0.5")
    with pytest.raises(ValueError, match="logits of the next exit"):
        LayerParallel(build_method(loaded, whole(loaded).network), range(2), Links())
