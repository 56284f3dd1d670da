"""Kills one of several processes that train layers in parallel at random moments, and resumes from the checkpoint.

Each trial kills another rank, in turn, of two or of three. The others must end within the time-out with one message
that names the rank and its layer groups, `lcprune verify` must pass, and the resumed run must end with the weights and
predictions of an uninterrupted one.
"""

import random
import shutil
import signal
import time
from pathlib import Path

from lcprune import runs
from lcprune.errors import LcpruneError
from lcprune.pipeline.verify import verify
from lcprune.training import checkpoint
from tests.trials.faults.training import Found, differences, failing
from tests.trials.torchrun import LOGGED, START_S, STEPS, torchrun

TIMEOUT_S = 20.0
LAYERS = ("train", "ranks.yaml", "--parallel", "layers")


def ranks(scratch: Path, trials: int, seed: int) -> Found:
    """One of several processes is killed: the others end with one message, and the resumed run is bit-identical.

    Each trial is one run with one kill.
    """
    draws = random.Random(seed)
    whole = scratch / "whole"
    started = torchrun(2, *LAYERS, "--out", str(whole), cwd=scratch)
    if started.wait(START_S):
        return Found([started.printed])
    problems, waits_s = [], [0.0]
    for number in range(trials):
        size, rank = ((2, 0), (2, 1), (3, 0), (3, 1), (3, 2))[number % 5]
        run = scratch / f"run-{number}"
        problem = _kill_and_resume(run, size, rank, draws, waits_s) or "; ".join(differences(run, whole))
        problems.append(problem and f"rank {rank} of {size}: {problem}")
        shutil.rmtree(run, ignore_errors=True)
    return Found(failing(problems), {"timeout_s": TIMEOUT_S, "longest_end_s": round(max(waits_s), 1)})


def _kill_and_resume(run: Path, size: int, rank: int, draws: random.Random, waits_s: list[float]) -> str:
    """What was wrong; the time that the others needed to end is added to `waits_s`."""
    started = torchrun(size, *LAYERS, "--timeout", str(TIMEOUT_S), "--out", str(run), cwd=run.parent)
    if not started.reaches(run, draws.randrange(LOGGED, STEPS - LOGGED, LOGGED)):
        return f"it did not begin: {started.printed[-500:]}"
    time.sleep(draws.random() * 0.05)
    started.send(signal.SIGKILL, rank)
    killed_at = time.perf_counter()
    code = started.wait(TIMEOUT_S + 40)  # torchrun itself waits half a minute for what does not end
    waits_s.append(time.perf_counter() - killed_at)
    if code is None or waits_s[-1] > TIMEOUT_S + 5:
        return f"the others had not ended after {waits_s[-1]:.0f} s"
    errors = started.errors
    if not code or len(errors) != 1 or f"rank {rank} (layer group" not in errors[0]:
        return f"exit code {code}: {errors}"
    try:
        if checkpoint.exists(run / runs.CHECKPOINTS):
            verify(run)
        _, complaints = checkpoint.load_newest(run / runs.CHECKPOINTS)
    except LcpruneError as error:
        return error.problem
    resumed = torchrun(size, "resume", str(run), cwd=run.parent)
    return "; ".join(complaints) or (resumed.printed[-500:] if resumed.wait(START_S) else "")
