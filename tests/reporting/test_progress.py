"""What is said during training: lines, estimates, and the hint where a run would take hours."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lcprune import recipe as recipes
from lcprune.reporting import progress
from lcprune.reporting.progress import TrainingProgress
from lcprune.training.loop import Evaluation, LoggedStep


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 1e6

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def logged(step: int) -> LoggedStep:
    return LoggedStep(step=step, epoch=1.0, lr=0.1, loss=[0.5, 0.25], critic_loss=[0.1], images_per_s=640.4)


def show(
    clock: Clock, steps: int, step_s: float, *, log_at: tuple[int, ...] = (), hint: str | None = None, **options: Any
) -> None:
    """A run of `steps`, of which the first 20 are done, one every `step_s` seconds."""
    plain: dict[str, Any] = {"start": 0, "quiet": False}
    chosen = plain | options
    with TrainingProgress(steps, chosen["start"], ("sub-model 1", "main"), quiet=chosen["quiet"], hint=hint) as shown:
        for step in range(chosen["start"] + 1, chosen["start"] + 21):
            clock.now_s += step_s
            shown.stepped(step, logged(step) if step in log_at else None)
        shown.evaluated(Evaluation(chosen["start"] + 20, "val", [50.0, 62.345]))


def test_plain_lines_off_a_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    show(clock, 100, 1.0, log_at=(5, 10, 18))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "step 5/100  loss 0.50 main 0.25  640 images/s  2 min left",
        "this run will take about 2 min",
        "step 18/100  loss 0.50 main 0.25  640 images/s  82 s left",  # 10 comes less than 10 s after 5
        "step 20: val accuracy % 1 50.00 main 62.34",
    ]


def test_an_evaluation_says_what_makes_it_too_low_and_which_weights_are_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with TrainingProgress(99, 0, ("main",), quiet=False, hint=None) as shown:
        shown.evaluated(Evaluation(20, "val", [10.0], old_statistics=0.818))
        shown.evaluated(Evaluation(40, "val", [62.0], kept_step=30))
        shown.evaluated(Evaluation(99, "val", [62.0], kept_step=99))
    assert capsys.readouterr().err.splitlines() == [
        "step 20: val accuracy % main 10.00",
        "  too low: 82 % of BatchNorm's statistics are from before training",
        "step 40: val accuracy % main 62.00",
        "ended early, the weights of step 30 are kept",
        "step 99: val accuracy % main 62.00",
        "the weights of step 99 are kept",
    ]


@pytest.mark.parametrize(("start", "step"), [(0, 1), (0, 2), (0, 3), (0, 4), (0, 12), (40, 41), (40, 43), (40, 52)])
def test_the_time_left_is_right_from_the_first_step_on(
    clock: Clock, capsys: pytest.CaptureFixture[str], start: int, step: int
) -> None:
    show(clock, 60, 0.5, log_at=(step,), start=start)
    line = capsys.readouterr().err.splitlines()[0]
    assert line == f"step {step}/60  loss 0.50 main 0.25  640 images/s  {(60 - step) / 2:.0f} s left"


@pytest.mark.parametrize(
    ("step_s", "start", "said"),
    [
        (0.0599, 0, []),
        (0.07, 0, ["this run will take about 70 s"]),
        (10.7, 0, ["this run will take about 3.0 h"]),
        (10.9, 0, ["this run will take about 3.0 h", "take a smaller one"]),
        (60, 0, ["this run will take about 16.7 h", "take a smaller one"]),
        (60, 900, ["this run will take about 1.7 h"]),  # only what is left counts
    ],
)
def test_an_estimate_after_the_first_steps(
    clock: Clock, capsys: pytest.CaptureFixture[str], step_s: float, start: int, said: list[str]
) -> None:
    show(clock, 1000, step_s, hint="take a smaller one", start=start)
    assert capsys.readouterr().err.splitlines()[:-1] == said


def test_quiet_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    show(clock, 1000, 60, log_at=(5,), hint="hint", quiet=True)
    assert capsys.readouterr() == ("", "")


def test_on_the_command_line_the_hint_names_recipes_that_ship(
    here: Path, cli: Callable[..., Any], tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock) * 36000.0))
    settings = [part for key in (*tiny, "train.iterations=14") for part in ("--set", key)]
    told = cli("train", "digits", *settings).stderr
    assert "hint: that is long for this device" in told
    named = {"digits", "vgg_cifar10_small"}
    assert all(name in told for name in named)
    assert named <= set(recipes.shipped())
    assert "--device cuda" in told
    assert "`lcprune resume` goes on" in told
