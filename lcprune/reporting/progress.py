"""The progress bar of a training run, and the hint where it would take many hours."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lcprune.exits import exit_label
from lcprune.training.loop import Evaluation, LoggedStep
from lcprune_runtime.tables import duration

LONG_RUN_S = 3 * 3600
WARM_UP_STEPS, TIMED_STEPS = 3, 10


class TrainingProgress:
    """Steps, losses, images/s and the time left, on stderr; off a terminal a line at most every 10 s."""

    def __init__(
        self, iterations: int, start: int, exit_names: tuple[str, ...], *, quiet: bool, hint: str | None
    ) -> None:
        """How to show a run.

        Args:
            iterations: Steps of the whole run.
            start: Steps that are done already.
            exit_names: ``sub-model 1`` .. ``main``.
            quiet: Show nothing.
            hint: Printed where the run would take hours, such as a smaller recipe; None prints nothing.
        """
        self._iterations = iterations
        self._first = start
        self._hint = hint
        self._console = Console(file=sys.stderr, quiet=quiet, highlight=False)
        self._names = [exit_label(name) for name in exit_names]
        self._progress = Progress(
            BarColumn(bar_width=10),  # the whole line fits into 80 characters with four exits
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._progress.add_task("train", total=iterations, completed=start, loss="", speed="")
        self._next_line_s = 0.0
        self._timed_from = self._started = time.monotonic()

    def __enter__(self) -> "TrainingProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stepped(self, step: int, logged: LoggedStep | None) -> None:
        """See `Listener`."""
        self._progress.update(self._task, completed=step)
        self._estimate(step - self._first)
        if logged is None:
            return
        *shallow, main = (f"{value:.2f}" for value in logged.loss)
        loss = " ".join(["loss", *shallow, "main", main])
        speed = f"{logged.images_per_s:.0f} images/s"
        self._progress.update(self._task, loss=loss, speed=speed)
        now = time.monotonic()
        if not self._console.is_terminal and now >= self._next_line_s:
            self._next_line_s = now + 10
            left_s = (self._iterations - step) * self._batch_seconds(logged)
            self._console.print(f"step {step}/{self._iterations}  {loss}  {speed}  {duration(left_s)} left")

    def evaluated(self, evaluation: Evaluation) -> None:
        """See `Listener`."""
        accuracies = " ".join(f"{n} {a:.2f}" for n, a in zip(self._names, evaluation.accuracy_pct, strict=True))
        self._console.print(f"step {evaluation.step}: {evaluation.split} accuracy % {accuracies}")
        if evaluation.old_statistics is not None:
            old = f"{100 * evaluation.old_statistics:.0f} % of BatchNorm's statistics"
            self._console.print(f"  too low: {old} are from before training")
        if evaluation.kept_step is not None:
            early = "ended early, " if evaluation.step < self._iterations else ""
            self._console.print(f"{early}the weights of step {evaluation.kept_step} are kept")

    def _batch_seconds(self, logged: LoggedStep) -> float:
        steps = logged.step - self._first
        if steps <= WARM_UP_STEPS:
            return (time.monotonic() - self._started) / max(steps, 1)
        return (time.monotonic() - self._timed_from) / (steps - WARM_UP_STEPS)

    def _estimate(self, steps: int) -> None:
        if steps == WARM_UP_STEPS:
            self._timed_from = time.monotonic()
        if steps != WARM_UP_STEPS + TIMED_STEPS:
            return
        total_s = (time.monotonic() - self._timed_from) / TIMED_STEPS * (self._iterations - self._first)
        if total_s > 60:
            self._console.print(f"this run will take about {duration(total_s)}")
        if total_s > LONG_RUN_S and self._hint:
            self._console.print(self._hint)
