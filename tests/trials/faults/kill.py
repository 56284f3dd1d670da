"""Kills a training at random moments and resumes it each time: the weights must be those of an uninterrupted run.

A tenth of the kills come before the first checkpoint, three tenths while one is written (in the middle of its bytes,
before and after it is flushed, before, between and after the two renames), the others at any moment.
"""

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from lcprune import runs
from lcprune.errors import RunError
from lcprune.training import checkpoint
from tests.trials.faults.training import Found, Steps, differences, error_of, exit_code, failing, fork, train

STEPS, EVERY = 5000, 20
POINTS = ("bytes", "flush 1", "flush 2", "before rename 1", "after rename 1", "after rename 2", "flush 3")


def kill(scratch: Path, trials: int, seed: int) -> Found:
    """A training that is killed at any moment can be resumed, and ends with the weights of an uninterrupted one.

    Trains once without and once with `trials` kills.
    """
    draws = random.Random(seed)
    steps = max(STEPS, 60 * trials) if trials >= 100 else 60 * trials + 200
    settings = (f"train.iterations={steps}", f"train.checkpoint_every={EVERY}")
    whole, killed = scratch / "whole", scratch / "killed"
    if problem := error_of(lambda: train(whole, *settings), scratch / "whole.txt"):
        return Found([problem])
    counts = {"start": trials // 10, "writing": 3 * trials // 10}
    counts["any"] = trials - sum(counts.values())
    late = ["writing"] * counts["writing"] + ["any"] * counts["any"]
    draws.shuffle(late)
    failures: list[str] = []
    for number, kind in enumerate([*["start"] * counts["start"], *late], start=1):
        if problem := _kill(killed, settings, kind, draws):
            failures.append(f"kill {number} ({kind}): {problem}")
    if problem := error_of(lambda: train(killed, *settings), scratch / "killed.txt"):
        failures.append(problem)
    else:
        failures += differences(killed, whole)
        lines = [(folder / runs.METRICS).read_text().count("\n") for folder in (whole, killed)]
        failures += [f"{runs.METRICS} has {lines[1]} lines, not {lines[0]}"] if lines[0] != lines[1] else []
    return Found(failures, {"steps": steps, "kills": counts})


def _kill(folder: Path, settings: tuple[str, ...], kind: str, draws: random.Random) -> str:
    """Starts or resumes the training and kills it; what is wrong with what it left."""
    before = _saved_step(folder)
    steps = Steps()
    point, share = draws.choice(POINTS), draws.random()

    def work() -> None:
        if kind == "writing":
            _die_in_second_checkpoint(point, share)
        train(folder, *settings, listener=steps)

    process = fork(work, folder.with_suffix(".log"))
    if kind != "writing":
        least, most = (1, EVERY - 1) if kind == "start" else (EVERY + 1, 3 * EVERY)
        steps.reach(before + draws.randint(least, most))
        time.sleep(draws.random() * 0.003)
        os.kill(process, signal.SIGKILL)
    if exit_code(process) != -signal.SIGKILL:
        return f"it ended by itself: {folder.with_suffix('.log').read_text()[-300:]}"
    try:
        after = _saved_step(folder)
    except RunError as error:
        return error.problem
    if steps.done <= before:
        return f"no step was made after step {before}"
    lost = steps.done - after
    return f"{lost} steps were lost" if lost > (2 if kind == "writing" else 1) * EVERY else ""


def _saved_step(folder: Path) -> int:
    """The step of the newest checkpoint.

    Raises:
        RunError: If a checkpoint is damaged: a kill must not leave such a one.
    """
    content, complaints = checkpoint.load_newest(folder / runs.CHECKPOINTS)
    if complaints:
        raise RunError("; ".join(complaints), "")
    return 0 if content is None else int(content["step"])


def _die_in_second_checkpoint(point: str, share: float) -> None:
    """Lets this process kill itself at a point of the second checkpoint that it writes. Patches are never undone."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write_a_part(path: Path, content: bytes) -> None:
        with path.open("wb", buffering=0) as file:
            file.write(bytes(content)[: int(share * len(content))])
        die()

    def arm() -> None:
        kind, _, number = point.rpartition(" ")
        if point == "bytes":
            mock.patch.object(Path, "write_bytes", write_a_part).start()
        elif kind == "flush":
            mock.patch.object(os, "fsync", _nth(os.fsync, int(number), "before", die)).start()
        else:
            when = kind.removesuffix(" rename")
            mock.patch.object(Path, "replace", _nth(Path.replace, int(number), when, die)).start()

    mock.patch.object(checkpoint, "rotate", _nth(checkpoint.rotate, 2, "before", arm)).start()


def _nth(function: Callable[..., Any], number: int, when: str, act: Callable[[], None]) -> Callable[..., Any]:
    """`function`, with something done before or after its call of that number."""
    calls = itertools.count(1)

    def counted(*arguments: Any) -> Any:
        due = when if next(calls) == number else ""
        if due == "before":
            act()
        result = function(*arguments)
        if due == "after":
            act()
        return result

    return counted


def lock(scratch: Path, trials: int, _: int) -> Found:
    """A second training in a run folder is refused; when the first is killed, its lock is gone at once.

    Starts a second training in a folder where one is running, and a third after the first was killed.
    """
    return Found(failing(_three(scratch / f"run-{number}", scratch / "output.txt") for number in range(trials)))


def _three(run: Path, output: Path) -> str:
    steps = Steps()
    first = fork(lambda: train(run, "train.iterations=1000000", listener=steps), output)
    steps.reach(31)
    code = exit_code(fork(lambda: train(run), output))
    printed = output.read_text()
    continues = steps.reach(steps.done + 1)
    _end(first)
    if code != 1 or f"another process is training in {run}" not in printed:
        return f"the second was not refused: exit code {code}: {printed[-300:]}"
    if not continues:
        return "the first did not continue"
    steps = Steps()
    third = fork(lambda: train(run, listener=steps), output)
    starts = steps.reach(1)
    _end(third)
    return "" if starts else f"the third did not start: {output.read_text()[-300:]}"


def _end(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    exit_code(process)
