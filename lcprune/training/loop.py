"""The training loop: steps, logging, evaluation, checkpoints, and how a run ends."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
from torch import Tensor

from lcprune.data.loaders import TrainLoader
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
from lcprune.training.parallel import Coordinator
from lcprune.training.step import build_step

OLD_STATISTICS = 0.05
"""Share of BatchNorm's statistics from before training from which on an evaluation says so."""
RETRY_FACTOR = 0.25
"""Factor on the learning rates, each time that a run goes back because a number is not finite."""


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
    """Share of the time that training waited for files, 0 to 1; None if images are in memory."""


@dataclass(frozen=True)
class Evaluation:
    """A line of ``metrics.jsonl`` about accuracy."""

    step: int
    split: str
    accuracy_pct: list[float]
    test_accuracy_pct: list[float] | None = None
    """With `logging.test_curve`; for information only."""
    old_statistics: float | None = None
    """Share of BatchNorm's statistics that is from before training, from `OLD_STATISTICS` to 1: accuracy is too low.
    None if there is less, or if they were measured anew."""
    kept_step: int | None = None
    """With `train.early_stopping`, at the last evaluation: the step whose weights are kept."""


class Listener(Protocol):
    """Receives a run's progress."""

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
        """The images whose losses are recorded."""
        ...

    @property
    def steps(self) -> frozenset[int]:
        """The steps after which they are recorded."""
        ...

    def add(self, step: int, logits: Tensor) -> None:
        """Records the losses of logits ``(K, N, C)``."""
        ...

    def forget_after(self, step: int) -> None:
        """Drops what was recorded after `step`."""
        ...


@dataclass(frozen=True)
class Trainer:
    """Trains a network to the end of a run, in all processes of its coordinator."""

    recipe: Recipe
    iterations: int
    loader: TrainLoader
    held_out: Split
    """The images of the evaluations during training."""
    held_out_name: str
    """``val``, or ``test`` if the recipe has no validation images; then there is no best checkpoint."""
    checkpoints: Path
    reproducibility: dict[str, str | int]
    """What bit-identity depends on, recorded in every checkpoint."""
    test_curve: Split | None = None
    """The test images, if they are evaluated during training as well."""
    loss_record: LossRecord | None = None
    """Records the losses of single images, if asked for. For one process only."""
    coordinator: Coordinator = field(default_factory=Coordinator)

    def fit(self, method: Method, state: TrainingState, listener: Listener) -> None:
        """Trains from ``state.step`` to the end, in place; with `train.early_stopping` perhaps to an earlier one.

        Raises:
            NotFiniteError: If a loss, gradient or weight is not finite; checked before each logged line and checkpoint,
                so that no checkpoint has such a number.
            Interrupted: After Ctrl-C, SIGTERM or SIGHUP, with the state saved.
        """
        train, device = self.recipe.train, self.coordinator.device
        keep_freed_memory()
        bf16 = precision.resolve(train.precision, device) == "bf16"
        step = build_step(method, state.optimizers, device, bf16=bf16, cuda_graph=train.cuda_graph)
        freezer = Freezer(self.recipe, state.network)
        meter = _Meter(self)
        with _interruptible() as interrupted:
            if state.step == 0:
                self._record_losses(state, meter)
            while not self._is_over(state):
                self.coordinator.begin(state.step)
                freezer.set(state.step)
                factor = RETRY_FACTOR**state.retries
                lr = set_learning_rates(self.recipe, state.optimizers, state.step, self.iterations, factor)
                meter.add(step(*self.loader.batch(state.step), state.step))
                state.step += 1
                if state.average is not None:
                    averaging.collect(state.average, state.network, self.recipe, state.step, self.iterations)
                at_end = state.step == self.iterations
                evaluates = at_end or state.step % train.evaluate_every == 0
                stop = self.coordinator.should_stop(interrupted.is_set())
                logs, saves = (
                    at_end or stop or state.step % every == 0
                    for every in (self.recipe.logging.every, train.checkpoint_every)
                )
                saves = saves or (evaluates and train.early_stopping > 0)  # resumed, an early end is one again
                if logs or saves or evaluates:
                    self.coordinator.drain(state)
                logged = meter.read(state, lr) if logs or saves else None
                if logged is not None:
                    self._refuse_not_finite(state, logged)
                listener.stepped(state.step, logged)
                if evaluates:
                    with meter.paused():
                        self._evaluate(state, listener)
                self._record_losses(state, meter)  # before the checkpoint: a resumed run starts after this step
                if saves:
                    self.save(state)
                if stop and not self._is_over(state):
                    raise Interrupted(
                        f"interrupted at step {state.step}: saved",
                        f"continue with: lcprune resume {self.checkpoints.parent}",
                    )
                meter.resume(state)

    def save(self, state: TrainingState) -> None:
        """Writes a checkpoint, if this process is the writer."""
        whole = self.coordinator.gather_state(state)
        if whole is not None:
            checkpoint.rotate(self.checkpoints, whole, self.reproducibility)
        release_freed_memory()

    def predict(self, state: TrainingState, split: Split) -> Tensor:
        """Logits of every exit for all images of `split`, ``(K, N, classes)``, on the CPU."""
        return self.coordinator.predict_logits(state.network, split, self.recipe.train.channels_last)

    def _is_over(self, state: TrainingState) -> bool:
        patience = self.recipe.train.early_stopping
        return state.step >= self.iterations or 0 < patience <= state.evaluations_since_best

    def _evaluate(self, state: TrainingState, listener: Listener) -> None:
        if not len(self.held_out.labels):
            return
        on_test = None
        with self._previewed(state):
            accuracies = self._accuracies_pct(state, self.held_out)
            if self.test_curve is not None and len(self.test_curve):
                on_test = accuracies if self.held_out_name == "test" else self._accuracies_pct(state, self.test_curve)
        is_best = self.held_out_name == "val" and accuracies[-1] > state.best_accuracy_pct
        state.evaluations_since_best += 1
        if is_best:
            state.best_accuracy_pct, state.best_step, state.evaluations_since_best = accuracies[-1], state.step, 0
        listener.evaluated(
            Evaluation(
                step=state.step,
                split=self.held_out_name,
                accuracy_pct=accuracies,
                test_accuracy_pct=on_test,
                old_statistics=self._old_statistics(state),
                kept_step=state.best_step if self.recipe.train.early_stopping and self._is_over(state) else None,
            )
        )
        whole = self.coordinator.gather_state(state) if is_best else None
        if whole is not None:
            checkpoint.save(whole, self.checkpoints / checkpoint.BEST, self.reproducibility)

    def _previewed(self, state: TrainingState) -> AbstractContextManager[None]:
        """Within, the network is what the run would write if it ended now."""
        if state.average is None:
            return nullcontext()
        return averaging.previewed(state.average, state.network, self.loader, state.step)

    def _old_statistics(self, state: TrainingState) -> float | None:
        share = 0.0 if state.average is not None else averaging.share_from_before(state.network, state.step)
        return share if share >= OLD_STATISTICS else None

    def _accuracies_pct(self, state: TrainingState, split: Split) -> list[float]:
        correct = self.predict(state, split).argmax(dim=2) == torch.from_numpy(split.labels)
        accuracies: list[float] = (100 * correct.double().mean(dim=1)).tolist()
        return accuracies

    def _record_losses(self, state: TrainingState, meter: "_Meter") -> None:
        if self.loss_record is None or state.step not in self.loss_record.steps:
            return
        with meter.paused():
            self.loss_record.add(state.step, self.predict(state, self.loss_record.images))

    def _refuse_not_finite(self, state: TrainingState, logged: LoggedStep) -> None:
        place = loss_not_finite(logged.loss, logged.critic_loss, self.recipe.data.sizes)
        if place is None:
            places = self.coordinator.all_gather(first_not_finite(state.network))
            place = next((each for each in places if each is not None), None)
        if place is None:
            return
        run = self.checkpoints.parent
        retry = f", or resume with a lower one: lcprune resume {run} --set train.on_nonfinite=retry"
        lower = self.recipe.train.lr * RETRY_FACTOR
        raise NotFiniteError(
            f"{place} is no longer a finite number at step {state.step}",
            f"train again with a lower learning rate: --set train.lr={lower:g}"
            + (retry if checkpoint.exists(self.checkpoints) else ""),
        )


class _Meter:
    """Sums losses on the device and reads them only when a line is logged."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._sum: Tensor | None = None
        self._exits = 0
        self._steps = 0
        self._waited_s = trainer.loader.waited_s
        self._started = time.perf_counter()

    def add(self, losses: Losses) -> None:
        values = torch.cat([losses.exits, losses.critics])
        self._sum = values if self._sum is None else self._sum + values
        self._exits = len(losses.exits)
        self._steps += 1

    def read(self, state: TrainingState, lr: float) -> LoggedStep:
        """The means since the last call."""
        means = torch.zeros(0) if self._sum is None else self._sum / self._steps
        exits, critics = self._trainer.coordinator.gather_losses(means[: self._exits], means[self._exits :])
        elapsed = max(time.perf_counter() - self._started, 1e-9)  # of a clock that stood still or jumped
        images = self._steps * self._trainer.recipe.data.batch_size
        state.seconds += elapsed
        waited, self._waited_s = self._trainer.loader.waited_s - self._waited_s, self._trainer.loader.waited_s
        self._sum, self._steps = None, 0
        self._started = time.perf_counter()
        return LoggedStep(
            step=state.step,
            epoch=state.step / self._trainer.loader.steps_per_epoch,
            lr=lr,
            loss=exits,
            critic_loss=critics,
            images_per_s=images / elapsed,
            wait_share=min(1.0, max(0.0, waited / elapsed)) if waited else None,
        )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes time that is no training."""
        started, waited_s = time.perf_counter(), self._trainer.loader.waited_s
        yield
        self._started += time.perf_counter() - started
        self._waited_s += self._trainer.loader.waited_s - waited_s

    def resume(self, state: TrainingState) -> None:
        """Restarts the clock after a logged line, so that evaluation and saving are not counted."""
        if not self._steps:
            self._started = time.perf_counter()


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C, SIGTERM or SIGHUP into an event, which completes the step; the second acts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread receives signals
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # which nohup asks for
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
