"""Kills a training at random moments and goes on each time: the weights must be those of a run never stopped.

    python -m benchmarks.chaos.kill [--trials 100] [--seed 0]

A tenth of the kills come before the first checkpoint, three tenths inside the writing of one (in the middle of its
bytes, before and after it is flushed, before, between and after the two renames), the others at any moment.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.chaos import promise, tiny
from lcprune import runs
from lcprune.errors import RunError
from lcprune.training import checkpoint

PROMISE = "A training that is killed at any moment goes on, and ends with the weights of one never stopped."
MODULE = "benchmarks.chaos.kill"
STEPS, EVERY = 5000, 20
STUCK_S = 120.0
POINTS = ("bytes", "flush 1", "flush 2", "before rename 1", "after rename 1", "after rename 2", "flush 3")


def attempt(scratch: Path, trials: int, seed: int) -> promise.Found:
    """Trains once without and once with `trials` kills."""
    draws = random.Random(seed)
    steps = max(STEPS, 60 * trials) if trials >= 100 else 60 * trials + 200
    settings = (f"train.iterations={steps}", f"train.checkpoint_every={EVERY}")
    whole, killed = scratch / "whole", scratch / "killed"
    failures: list[str] = []
    if tiny.exit_code(tiny.fork(lambda: tiny.go_on(whole, *settings), scratch / "whole.txt")):
        return promise.Found(0, ((scratch / "whole.txt").read_text(),))
    kinds = ["start"] * (trials // 10) + ["writing"] * (3 * trials // 10)
    kinds += ["any"] * (trials - len(kinds))
    late = kinds[trials // 10 :]
    draws.shuffle(late)
    for number, kind in enumerate([*kinds[: trials // 10], *late]):
        if failure := _kill(killed, settings, kind, draws):
            failures.append(f"kill {number + 1} ({kind}): {failure}")
    if tiny.exit_code(tiny.fork(lambda: tiny.go_on(killed, *settings), scratch / "killed.txt")):
        failures.append((scratch / "killed.txt").read_text())
    else:
        failures += _differences(whole, killed)
    by_kind = {kind: kinds.count(kind) for kind in ("start", "writing", "any")}
    return promise.Found(trials, tuple(failures), {"steps": steps, "kills": by_kind})


def _kill(folder: Path, settings: tuple[str, ...], kind: str, draws: random.Random) -> str:
    """Starts or resumes the training and kills it; what is wrong with what it left."""
    before = _saved(folder)
    steps = tiny.Steps()
    point = draws.choice(POINTS)
    share = draws.random()

    def work() -> None:
        if kind == "writing":
            _die_inside(point, share)
        tiny.go_on(folder, *settings, steps=steps)

    process = tiny.fork(work, folder.with_suffix(".log"))
    if kind != "writing":
        least, most = (1, EVERY - 1) if kind == "start" else (EVERY + 1, 3 * EVERY)
        _wait_for(steps, before + draws.randint(least, most))
        time.sleep(draws.random() * 0.003)
        os.kill(process, signal.SIGKILL)
    if tiny.exit_code(process) != -signal.SIGKILL:
        return f"it ended by itself: {folder.with_suffix('.log').read_text()[-300:]}"
    try:
        after = _saved(folder)
    except RunError as error:
        return error.problem
    if steps.done <= before:
        return f"no step was made after step {before}"
    lost = steps.done - after
    return f"{lost} steps were lost" if lost > (2 if kind == "writing" else 1) * EVERY else ""


def _saved(folder: Path) -> int:
    """The step of the newest checkpoint.

    Raises:
        RunError: If there is one that is damaged: a kill must not leave such a one.
    """
    content, complaints = checkpoint.load_newest(folder / runs.CHECKPOINTS)
    if complaints:
        raise RunError("; ".join(complaints), "")
    return 0 if content is None else int(content["step"])


def _wait_for(steps: tiny.Steps, step: int) -> None:
    started = time.perf_counter()
    while steps.done < step and time.perf_counter() - started < STUCK_S:
        time.sleep(0.0002)


def _die_inside(point: str, share: float) -> None:
    """Lets this process kill itself at a point of the second checkpoint that it writes."""
    rotate, calls = checkpoint.rotate, 0

    def dying(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            _arm(point, share)
        rotate(*arguments)

    mock.patch.object(checkpoint, "rotate", dying).start()


def _arm(point: str, share: float) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def part_of_it(path: Path, content: bytes) -> None:
        with path.open("wb", buffering=0) as file:
            file.write(bytes(content)[: int(share * len(content))])
        die()

    kind, _, number = point.rpartition(" ")
    if point == "bytes":
        mock.patch.object(Path, "write_bytes", part_of_it).start()  # never stopped: this process ends here
    elif kind == "flush":
        mock.patch.object(os, "fsync", _nth(os.fsync, int(number), before=die)).start()
    else:
        at = {"before rename": "before", "after rename": "after"}[kind]
        mock.patch.object(Path, "replace", _nth(Path.replace, int(number), **{at: die})).start()


def _nth(
    function: Callable[..., Any],
    number: int,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> Callable[..., Any]:
    """`function`, with something done before or after its call of that number."""
    calls = 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            before()
        result = function(*arguments)
        if calls == number:
            after()
        return result

    return counted


def _differences(whole: Path, killed: Path) -> list[str]:
    failures = [
        f"{name} differs from the run that was never stopped"
        for name in (runs.WEIGHTS, runs.PREDICTIONS)
        if runs.sha256(whole / name) != runs.sha256(killed / name)
    ]
    lines = [(folder / runs.METRICS).read_text().count("\n") for folder in (whole, killed)]
    if lines[0] != lines[1]:
        failures.append(f"{runs.METRICS} has {lines[1]} lines, not {lines[0]}")
    return failures


if __name__ == "__main__":
    sys.exit(promise.main(PROMISE, MODULE, attempt, 100))
