"""The training loop: steps, logging, evaluation, checkpoints, and the ways in which a run can end."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
from torch import Tensor

from lcprune.data.loaders import Loader
from lcprune.data.sources import Split
from lcprune.errors import Interrupted, NotFiniteError
from lcprune.recipe import Recipe
from lcprune.training import averaging, checkpoint, precision
from lcprune.training.allocator import keep_freed_memory, release_freed_memory
from lcprune.training.checkpoint import TrainingState
from lcprune.training.finite import first_not_finite, loss_not_finite
from lcprune.training.freezing import Freezer
from lcprune.training.methods import Losses, Method
from lcprune.training.optim import set_learning_rates
from lcprune.training.predicting import predict_logits
from lcprune.training.ranks import Alone, Ranks
from lcprune.training.step import build_step

RETRY_FACTOR = 0.25
"""On the learning rates, each time that a run goes back because a number is no longer finite."""


@dataclass(frozen=True)
class LoggedStep:
    """A line of ``metrics.jsonl`` about training; losses are means since the line before, in nats."""

    step: int
    epoch: float
    lr: float
    loss: list[float]
    critic_loss: list[float]
    images_per_s: float
    wait_share: float | None = None
    """Part of the time in which training waited for files to be read, 0 to 1; None where images are in memory."""


@dataclass(frozen=True)
class Evaluation:
    """A line of ``metrics.jsonl`` about accuracy."""

    step: int
    split: str
    accuracy_pct: list[float]
    test_accuracy_pct: list[float] | None = None
    """Where `logging.test_curve` asks for it; it decides nothing."""


class Listener(Protocol):
    """Who is told of a run's progress."""

    def stepped(self, step: int, logged: LoggedStep | None) -> None:
        """`step` steps are done; `logged` is given where a line is due."""
        ...

    def evaluated(self, evaluation: Evaluation) -> None:
        """An evaluation is done."""
        ...


class LossRecord(Protocol):
    """Records the losses of single images during training; see `lcprune.paper.recording`."""

    @property
    def images(self) -> Split:
        """Whose losses are recorded."""
        ...

    @property
    def steps(self) -> frozenset[int]:
        """After which they are recorded."""
        ...

    def add(self, step: int, logits: Tensor) -> None:
        """Records the losses of logits ``(K, N, C)``."""
        ...

    def forget_after(self, step: int) -> None:
        """Drops what was recorded after `step`."""
        ...


@dataclass(frozen=True)
class Plan:
    """What `fit` does, and where it writes."""

    recipe: Recipe
    iterations: int
    loader: Loader
    held_out: Split
    """The images of the evaluations on the way."""
    held_out_name: str
    """``val``, or ``test`` where the recipe holds out no validation images; then it decides nothing."""
    checkpoints: Path
    device: torch.device
    surroundings: dict[str, str | int]
    """What bit-equality depends on, recorded in every checkpoint."""
    test_curve: Split | None = None
    """The test images, where evaluations on the way are to show them too."""
    loss_record: LossRecord | None = None
    """Where the losses of single images are recorded; None: nowhere. For one process alone."""
    ranks: Ranks = field(default_factory=Alone)
    """The processes that train together, of which each has a plan."""


def fit(plan: Plan, method: Method, state: TrainingState, listener: Listener) -> None:
    """Trains from ``state.step`` to the end of the plan, in place.

    Raises:
        NotFiniteError: If a loss, gradient or weight is no longer finite, found when a line or a checkpoint is due; no
            checkpoint holds such a number.
        Interrupted: After Ctrl-C or SIGTERM, with the state saved.
    """
    train = plan.recipe.train
    keep_freed_memory()
    bf16 = precision.resolve(train.precision, plan.device) == "bf16"
    step = build_step(method, state.optimizers, plan.device, bf16=bf16, cuda_graph=train.cuda_graph)
    freezer = Freezer(plan.recipe, state.network)
    meter = _Meter(plan)
    ranks = plan.ranks
    with _interruptible() as interrupted, ranks.watched():
        if state.step == 0:
            _record_losses(plan, state, meter)
        while state.step < plan.iterations:
            ranks.begin(state.step)
            freezer.set(state.step)
            lr = set_learning_rates(plan.recipe, state.optimizers, state.step, plan.iterations)
            lr = _lowered(lr, state)
            meter.add(step(*plan.loader.batch(state.step), state.step))
            state.step += 1
            if state.average is not None:
                averaging.collect(state.average, state.network, plan.recipe, state.step, plan.iterations)
            at_end = state.step == plan.iterations
            evaluates = at_end or state.step % train.evaluate_every == 0
            stop = ranks.stops(interrupted.is_set())
            due = [
                at_end or stop or state.step % every == 0
                for every in (plan.recipe.logging.every, train.checkpoint_every)
            ]
            if any(due) or evaluates:
                ranks.settle(state)
            logged = meter.read(state, lr) if any(due) else None
            if logged is not None:
                _refuse_not_finite(plan, state, logged)
            listener.stepped(state.step, logged)
            if evaluates:
                _evaluate(plan, state, listener)
            _record_losses(plan, state, meter)  # before a checkpoint of this step, after which nobody would
            if due[1]:
                save(plan, state)
            if stop and not at_end:
                raise Interrupted(
                    f"interrupted at step {state.step}: saved", f"go on with: lcprune resume {plan.checkpoints.parent}"
                )
            meter.resume(state)


def _evaluate(plan: Plan, state: TrainingState, listener: Listener) -> None:
    if not len(plan.held_out.labels):
        return
    accuracies = _accuracies_pct(plan, state, plan.held_out)
    on_test = None
    if plan.test_curve is not None and len(plan.test_curve):
        on_test = accuracies if plan.held_out_name == "test" else _accuracies_pct(plan, state, plan.test_curve)
    listener.evaluated(Evaluation(state.step, plan.held_out_name, accuracies, on_test))
    if plan.held_out_name == "val" and accuracies[-1] > state.best_accuracy_pct:
        state.best_accuracy_pct = accuracies[-1]
        whole = plan.ranks.whole(state)
        if whole is not None:
            checkpoint.save(whole, plan.checkpoints / checkpoint.BEST, plan.surroundings)


def _accuracies_pct(plan: Plan, state: TrainingState, split: Split) -> list[float]:
    logits = plan.ranks.predict_logits(state.network, split, plan.device, plan.recipe.train.channels_last)
    correct = logits.argmax(dim=2) == torch.from_numpy(split.labels)
    accuracies: list[float] = (100 * correct.double().mean(dim=1)).tolist()
    return accuracies


def _record_losses(plan: Plan, state: TrainingState, meter: "_Meter") -> None:
    record = plan.loss_record
    if record is None or state.step not in record.steps:
        return
    started = time.perf_counter()
    record.add(state.step, predict_logits(state.network, record.images, plan.device, plan.recipe.train.channels_last))
    meter.leave_out(time.perf_counter() - started)


def save(plan: Plan, state: TrainingState) -> None:
    """Writes a checkpoint, where this process is the one that does."""
    whole = plan.ranks.whole(state)
    if whole is not None:
        checkpoint.rotate(plan.checkpoints, whole, plan.surroundings)
    release_freed_memory()


def _lowered(lr: float, state: TrainingState) -> float:
    """Lowers the learning rates of a run that went back; returns the trunk's, which is `lr` before."""
    if not state.retries:
        return lr
    factor = RETRY_FACTOR**state.retries
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] *= factor
    return lr * factor


def _refuse_not_finite(plan: Plan, state: TrainingState, logged: LoggedStep) -> None:
    place = loss_not_finite(logged.loss, logged.critic_loss)
    place = place or plan.ranks.first_place(first_not_finite(state.network))
    if place is None:
        return
    run = plan.checkpoints.parent
    retry = f", or go back and on with a lower one: lcprune resume {run} --set train.on_nonfinite=retry"
    lower = plan.recipe.train.lr * RETRY_FACTOR
    raise NotFiniteError(
        f"{place} is no longer a finite number at step {state.step}",
        f"train again with a lower learning rate: --set train.lr={lower:g}"
        + (retry if checkpoint.exists(plan.checkpoints) else ""),
    )


class _Meter:
    """Sums losses on the device and reads them only when a line is due."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sum: Tensor | None = None
        self._exits = 0
        self._steps = 0
        self._waited_s = plan.loader.waited_s
        self._started = time.perf_counter()

    def add(self, losses: Losses) -> None:
        values = torch.cat([losses.exits, losses.critics])
        self._sum = values if self._sum is None else self._sum + values
        self._exits = len(losses.exits)
        self._steps += 1

    def read(self, state: TrainingState, lr: float) -> LoggedStep:
        """The means since the last reading."""
        means = torch.zeros(0) if self._sum is None else self._sum / self._steps
        exits, critics = self._plan.ranks.whole_losses(means[: self._exits], means[self._exits :])
        elapsed = time.perf_counter() - self._started
        images = self._steps * self._plan.recipe.data.batch_size
        state.seconds += elapsed
        waited, self._waited_s = self._plan.loader.waited_s - self._waited_s, self._plan.loader.waited_s
        self._sum, self._steps = None, 0
        self._started = time.perf_counter()
        return LoggedStep(
            step=state.step,
            epoch=state.step / self._plan.loader.steps_per_epoch,
            lr=lr,
            loss=exits,
            critic_loss=critics,
            images_per_s=images / elapsed,
            wait_share=min(1.0, waited / elapsed) if waited else None,
        )

    def leave_out(self, seconds: float) -> None:
        """Time that went into something else than training."""
        self._started += seconds

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
