"""The training loop: steps, logging, evaluation, checkpoints, and the ways in which a run can end."""

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
from torch import Tensor

from lcprune.data.loaders import TrainLoader, eval_batches
from lcprune.data.sources import Split
from lcprune.errors import Interrupted, TrainingError
from lcprune.models import Network
from lcprune.recipe import Recipe
from lcprune.training import averaging, checkpoint, precision
from lcprune.training.allocator import keep_freed_memory, release_freed_memory
from lcprune.training.checkpoint import TrainingState
from lcprune.training.methods import Losses, Method
from lcprune.training.optim import all_finite, set_learning_rates
from lcprune.training.step import build_step

EVAL_BATCH = 500


@dataclass(frozen=True)
class LoggedStep:
    """A line of ``metrics.jsonl`` about training; losses are means since the line before, in nats."""

    step: int
    epoch: float
    lr: float
    loss: list[float]
    critic_loss: list[float]
    images_per_s: float


@dataclass(frozen=True)
class Evaluation:
    """A line of ``metrics.jsonl`` about accuracy."""

    step: int
    split: str
    accuracy_pct: list[float]


class Listener(Protocol):
    """Who is told of a run's progress."""

    def stepped(self, step: int, logged: LoggedStep | None) -> None:
        """`step` steps are done; `logged` is given where a line is due."""
        ...

    def evaluated(self, evaluation: Evaluation) -> None:
        """An evaluation is done."""
        ...


@dataclass(frozen=True)
class Plan:
    """What `fit` does, and where it writes."""

    recipe: Recipe
    iterations: int
    loader: TrainLoader
    held_out: Split
    """The images of the evaluations on the way."""
    held_out_name: str
    """``val``, or ``test`` where the recipe holds out no validation images; then it decides nothing."""
    checkpoints: Path
    device: torch.device
    surroundings: dict[str, str | int]
    """What bit-equality depends on, recorded in every checkpoint."""


def fit(plan: Plan, method: Method, state: TrainingState, listener: Listener) -> None:
    """Trains from ``state.step`` to the end of the plan, in place.

    Raises:
        TrainingError: If a loss or weight is no longer finite; the last good checkpoint is kept.
        Interrupted: After Ctrl-C or SIGTERM, with the state saved.
    """
    train = plan.recipe.train
    keep_freed_memory()
    bf16 = precision.resolve(train.precision, plan.device) == "bf16"
    step = build_step(method, state.optimizers, plan.device, bf16=bf16, cuda_graph=train.cuda_graph)
    meter = _Meter(plan)
    with _interruptible() as interrupted:
        while state.step < plan.iterations:
            lr = set_learning_rates(plan.recipe, state.optimizers, state.step, plan.iterations)
            meter.add(step(*plan.loader.batch(state.step), state.step))
            state.step += 1
            if state.average is not None:
                averaging.collect(state.average, state.network, plan.recipe, state.step, plan.iterations)
            at_end = state.step == plan.iterations
            stop = interrupted.is_set()
            due = [
                at_end or stop or state.step % every == 0
                for every in (plan.recipe.logging.every, train.checkpoint_every)
            ]
            logged = meter.read(state, lr) if any(due) else None
            listener.stepped(state.step, logged)
            if at_end or state.step % train.evaluate_every == 0:
                _evaluate(plan, state, listener)
            if due[1]:
                _save(plan, state)
            if stop and not at_end:
                raise Interrupted(
                    f"interrupted at step {state.step}: saved", f"go on with: lcprune resume {plan.checkpoints.parent}"
                )
            meter.resume(state)


def predict_logits(network: Network, split: Split, device: torch.device, channels_last: bool) -> Tensor:
    """Logits of every exit in eval mode on the CPU, ``(K, N, classes)`` float32; the mode is put back."""
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        batches = [
            torch.stack(network(images)).float().cpu()
            for images, _ in eval_batches(split, EVAL_BATCH, device, channels_last)
        ]
    network.train(was_training)
    return torch.cat(batches, dim=1)


def _evaluate(plan: Plan, state: TrainingState, listener: Listener) -> None:
    if not len(plan.held_out.labels):
        return
    logits = predict_logits(state.network, plan.held_out, plan.device, plan.recipe.train.channels_last)
    correct = logits.argmax(dim=2) == torch.from_numpy(plan.held_out.labels)
    accuracies = (100 * correct.double().mean(dim=1)).tolist()
    listener.evaluated(Evaluation(state.step, plan.held_out_name, accuracies))
    if plan.held_out_name == "val" and accuracies[-1] > state.best_accuracy_pct:
        state.best_accuracy_pct = accuracies[-1]
        checkpoint.save(state, plan.checkpoints / checkpoint.BEST, plan.surroundings)


def _save(plan: Plan, state: TrainingState) -> None:
    if not all_finite(state.network):
        raise _not_finite(plan, state, "a weight")
    checkpoint.rotate(plan.checkpoints, state, plan.surroundings)
    release_freed_memory()


def _not_finite(plan: Plan, state: TrainingState, what: str) -> TrainingError:
    kept = plan.checkpoints / checkpoint.LAST
    resume = f", or resume from {kept}: lcprune resume {plan.checkpoints.parent}" if kept.exists() else ""
    return TrainingError(
        f"{what} is no longer a finite number at step {state.step}",
        f"train again with a lower learning rate: --set train.lr={plan.recipe.train.lr / 4:g}{resume}",
    )


class _Meter:
    """Sums losses on the device and reads them only when a line is due."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sum: Tensor | None = None
        self._exits = 0
        self._steps = 0
        self._started = time.perf_counter()

    def add(self, losses: Losses) -> None:
        values = torch.cat([losses.exits, losses.critics])
        self._sum = values if self._sum is None else self._sum + values
        self._exits = len(losses.exits)
        self._steps += 1

    def read(self, state: TrainingState, lr: float) -> LoggedStep:
        """The means since the last reading; a loss that is not finite ends the run."""
        means: Sequence[float] = [] if self._sum is None else (self._sum / self._steps).tolist()
        elapsed = time.perf_counter() - self._started
        images = self._steps * self._plan.recipe.data.batch_size
        state.seconds += elapsed
        self._sum, self._steps = None, 0
        self._started = time.perf_counter()
        for index, mean in enumerate(means[: self._exits]):
            if not math.isfinite(mean):
                last = index == self._exits - 1
                exit_name = "main" if last else f"sub-model {index + 1}"
                raise _not_finite(self._plan, state, f"the loss of layer group {index + 1} ({exit_name})")
        return LoggedStep(
            step=state.step,
            epoch=state.step / self._plan.loader.steps_per_epoch,
            lr=lr,
            loss=list(means[: self._exits]),
            critic_loss=list(means[self._exits :]),
            images_per_s=images / elapsed,
        )

    def resume(self, state: TrainingState) -> None:
        """After an interval was read, evaluation and saving do not count as training time."""
        if not self._steps:
            self._started = time.perf_counter()


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C or SIGTERM into an event, so that no step is left half done; a second one acts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals reach the main thread alone
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
