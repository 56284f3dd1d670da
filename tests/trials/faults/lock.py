"""Starts a second training in a folder where one is running, and a third after the first was killed."""

import os
import signal
import time
from pathlib import Path

from tests.trials.faults.training import Found, Steps, exit_code, fork, train

PROMISE = "A second training in a run folder is refused; when the first is killed, its lock is gone at once."


def attempt(scratch: Path, trials: int, _: int) -> Found:
    """Each trial is three trainings."""
    problems = [_three(scratch / f"run-{number}", scratch / "output.txt") for number in range(trials)]
    return Found([f"trial {number}: {problem}" for number, problem in enumerate(problems, start=1) if problem])


def _three(run: Path, output: Path) -> str:
    steps = Steps()
    first = fork(lambda: train(run, "train.iterations=1000000", listener=steps), output)
    _passes(steps, 30)
    done = steps.done
    code = exit_code(fork(lambda: train(run), output))
    printed = output.read_text()
    continues = _passes(steps, done)
    _kill(first)
    if code != 1 or f"another process is training in {run}" not in printed:
        return f"the second was not refused: exit code {code}: {printed[-300:]}"
    if not continues:
        return "the first did not continue"
    steps = Steps()
    third = fork(lambda: train(run, listener=steps), output)
    starts = _passes(steps, 0)
    _kill(third)
    return "" if starts else f"the third did not start: {output.read_text()[-300:]}"


def _kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    exit_code(process)


def _passes(steps: Steps, step: int) -> bool:
    """Whether a later step is done within a minute."""
    for _ in range(60_000):
        if steps.done > step:
            return True
        time.sleep(0.001)
    return False
