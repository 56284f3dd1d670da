"""Puts NaN and infinity into images, weights and gradients: the place is named, and no checkpoint has them."""

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from lcprune import runs
from lcprune.errors import NotFiniteError
from lcprune.pipeline.fit import MAX_RETRIES
from lcprune.training import checkpoint
from lcprune.training.checkpoint import TrainingState
from lcprune.training.loop import Trainer
from tests.trials.faults.training import Found, failing, train

STEPS, EVERY = 60, 20
WHERE = ("images", "weight", "gradient")
HOW = {"stop": 0, "retry, it happens once": 1, "retry, it happens again": MAX_RETRIES}
"""With the number of retries that are expected."""


def nonfinite(scratch: Path, trials: int, seed: int) -> Found:
    """NaN or infinity in a loss, weight or gradient is named, never saved, and retried three times at most.

    Each trial injects NaN or infinity at another step, in another place.
    """
    draws, problems = random.Random(seed), []
    for number in range(trials):
        where, how = WHERE[number % 3], list(HOW)[number // 3 % 3]
        value, at = draws.choice((float("nan"), float("inf"), float("-inf"))), draws.randrange(STEPS)
        problem = _train_with(scratch / f"run-{number}", where, how, value, at)
        problems.append(problem and f"{value} in {where} at step {at}, {how}: {problem}")
    return Found(failing(problems))


def _train_with(run: Path, where: str, how: str, value: float, at: int) -> str:
    choice = how.partition(",")[0]
    settings = (f"train.iterations={STEPS}", f"train.checkpoint_every={EVERY}", f"train.on_nonfinite={choice}")
    notices: list[str] = []
    problem = ""
    with _injected(where, value, at, always=how.endswith("again")):
        try:
            train(run, *settings, notice=notices.append)
        except NotFiniteError as error:
            problem = error.problem
    retries = sum("going back to step" in line for line in notices)
    if retries != HOW[how]:
        return f"{retries} retries, not {HOW[how]}"
    if (problem == "") != how.endswith("once"):
        return f"it ended with {problem!r}"
    named = [problem] if problem else notices
    if not any(re.search(r"(layer group|critic) \d", line) for line in named):
        return f"no place is named: {named}"
    for path in (run / runs.CHECKPOINTS).iterdir():
        if not all(bool(tensor.isfinite().all()) for tensor in checkpoint.load(path)["network"].values()):
            return f"{path.name} holds it"
    return ""


@contextmanager
def _injected(where: str, value: float, at: int, *, always: bool) -> Iterator[None]:
    """Makes a training meet `value` at a step, once or every time that it comes to that step."""
    fit = Trainer.fit
    met = 0

    def injecting_fit(trainer: Trainer, method: Any, state: TrainingState, listener: Any) -> None:
        backward = method.backward

        def injecting(images: torch.Tensor, labels: torch.Tensor, step: int) -> Any:
            nonlocal met
            injects = step == at and (always or not met)
            met += injects
            weight = next(state.network.groups[1].parameters())
            if injects and where == "images":
                images = images.clone()
                images[0, 0, 0, 0] = value
            losses = backward(images, labels, step)
            if injects and where == "weight":
                weight.data.view(-1)[0] = value
            if injects and where == "gradient" and weight.grad is not None:
                weight.grad.view(-1)[0] = value
            return losses

        with mock.patch.object(method, "backward", injecting):
            fit(trainer, method, state, listener)

    with mock.patch.object(Trainer, "fit", injecting_fit):
        yield
