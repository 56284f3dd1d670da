"""Starts a second training in a folder where one is at work, and a third when the first was killed.

python -m benchmarks.chaos.second [--trials 10]
"""

import os
import signal
import sys
import time
from pathlib import Path

from benchmarks.chaos import promise, tiny

PROMISE = "A second training in a run folder is refused; when the first is killed, its lock is gone at once."
MODULE = "benchmarks.chaos.second"


def attempt(scratch: Path, trials: int, _: int) -> promise.Found:
    """Each trial is one such triple."""
    failures = []
    for number in range(trials):
        if failure := _one(scratch / f"run-{number}", scratch / "output.txt"):
            failures.append(f"trial {number + 1}: {failure}")
    return promise.Found(trials, tuple(failures))


def _one(run: Path, output: Path) -> str:
    steps = tiny.Steps()
    first = tiny.fork(lambda: tiny.go_on(run, "train.iterations=1000000", steps=steps), output)
    while steps.done < 30:
        time.sleep(0.001)
    at_work = steps.done
    code = tiny.exit_code(tiny.fork(lambda: tiny.go_on(run), output))
    said = output.read_text()
    went_on = _passes(steps, at_work)
    os.kill(first, signal.SIGKILL)
    tiny.exit_code(first)
    if code != 1 or f"another process is training in {run}" not in said:
        return f"the second was not refused: exit code {code}: {said[-300:]}"
    if not went_on:
        return "the first did not go on"
    third_steps = tiny.Steps()
    third = tiny.fork(lambda: tiny.go_on(run, steps=third_steps), output)
    goes = _passes(third_steps, 0)
    os.kill(third, signal.SIGKILL)
    tiny.exit_code(third)
    return "" if goes else f"the third did not start: {output.read_text()[-300:]}"


def _passes(steps: tiny.Steps, step: int) -> bool:
    """Whether more steps than that are done, soon."""
    for _ in range(60_000):
        if steps.done > step:
            return True
        time.sleep(0.001)
    return False


if __name__ == "__main__":
    sys.exit(promise.main(PROMISE, MODULE, attempt, 10))
