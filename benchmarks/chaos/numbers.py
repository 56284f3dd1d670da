"""Puts NaN and infinity into losses, weights and gradients: the place is named, and no checkpoint has them.

python -m benchmarks.chaos.numbers [--trials 24] [--seed 0]
"""

import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.chaos import promise, tiny
from lcprune import runs
from lcprune.errors import NotFiniteError
from lcprune.pipeline.fit import MAX_RETRIES
from lcprune.training import checkpoint
from lcprune.training.checkpoint import TrainingState
from lcprune.training.loop import Trainer

PROMISE = "NaN or infinity in a loss, weight or gradient is named, never saved, and retried three times at most."
MODULE = "benchmarks.chaos.numbers"
STEPS, EVERY = 60, 20
WHERE = ("images", "weight", "gradient")
HOW = ("stop", "retry and it is mended", "retry in vain")


def attempt(scratch: Path, trials: int, seed: int) -> promise.Found:
    """Each trial spoils a run at another step, in another place, with NaN or infinity."""
    draws, failures = random.Random(seed), []
    for number in range(trials):
        where, how = WHERE[number % 3], HOW[number // 3 % 3]
        value = draws.choice((float("nan"), float("inf"), float("-inf")))
        at = draws.randrange(STEPS)
        if failure := _one(scratch / f"run-{number}", where, how, value, at):
            failures.append(f"{value} in {where} at step {at}, {how}: {failure}")
    return promise.Found(trials, tuple(failures))


def _one(run: Path, where: str, how: str, value: float, at: int) -> str:
    choice = "stop" if how == "stop" else "retry"
    settings = (f"train.iterations={STEPS}", f"train.checkpoint_every={EVERY}", f"train.on_nonfinite={choice}")
    told: list[str] = []
    problem = ""
    with _spoilt(where, value, at, always=how == "retry in vain"):
        try:
            tiny.go_on(run, *settings, notice=told.append)
        except NotFiniteError as error:
            problem = error.problem
    retries = sum("going back to step" in line for line in told)
    expected = {"stop": 0, "retry and it is mended": 1, "retry in vain": MAX_RETRIES}[how]
    if retries != expected:
        return f"{retries} retries, not {expected}"
    if (problem == "") != (how == "retry and it is mended"):
        return f"it ended with {problem!r}"
    named = [problem] if problem else told
    if not any(re.search(r"(layer group|critic) \d", line) for line in named):
        return f"no place is named: {named}"
    for path in (run / runs.CHECKPOINTS).iterdir():
        network = checkpoint.load(path)["network"]
        if not all(bool(tensor.isfinite().all()) for tensor in network.values()):
            return f"{path.name} holds it"
    return ""


@contextmanager
def _spoilt(where: str, value: float, at: int, *, always: bool) -> Iterator[None]:
    """Inside, a training meets `value` at a step, once or every time that it comes to that step."""
    fit = Trainer.fit
    met = 0

    def spoiling(trainer: Trainer, method: Any, state: TrainingState, listener: Any) -> None:
        backward = method.backward

        def spoilt_backward(images: torch.Tensor, labels: torch.Tensor, step: int) -> Any:
            nonlocal met
            if step != at or (met and not always):
                return backward(images, labels, step)
            met += 1
            return _spoil(where, value, state, backward, (images, labels, step))

        method.backward = spoilt_backward
        try:
            fit(trainer, method, state, listener)
        finally:
            method.backward = backward

    with mock.patch.object(Trainer, "fit", spoiling):
        yield


def _spoil(where: str, value: float, state: TrainingState, backward: Callable[..., Any], given: Any) -> Any:
    images, labels, step = given
    if where == "images":
        images = images.clone()
        images[0, 0, 0, 0] = value
    losses = backward(images, labels, step)
    weight = next(state.network.groups[1].parameters())
    if where == "weight":
        with torch.no_grad():
            weight.view(-1)[0] = value
    if where == "gradient" and weight.grad is not None:
        weight.grad.view(-1)[0] = value
    return losses


if __name__ == "__main__":
    sys.exit(promise.main(PROMISE, MODULE, attempt, 24))
