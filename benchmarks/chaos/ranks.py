"""Kills one of several processes that train layers together at random moments, and goes on from the checkpoint.

    python -m benchmarks.chaos.ranks [--trials 20] [--seed 0]

Each trial kills another rank, in turn, of two or of three. The others must end within the time-out with one message
that names the rank and its layer groups, `lcprune verify` must find nothing wrong, and the run that goes on must end
with the weights and predictions of one that was never stopped.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos import promise
from lcprune import runs
from lcprune.errors import LcpruneError
from lcprune.pipeline.verify import verify
from lcprune.training import checkpoint

PROMISE = "One of several processes is killed: the others end with one message, and the run goes on to the same bits."
MODULE = "benchmarks.chaos.ranks"
STEPS, EVERY, LOGGED = 160, 10, 5
TIMEOUT_S = 20.0
START_S = 120.0
"""How long torch may take to be imported on a busy machine."""
RECIPE = f"""\
name: ranks
data: {{source: digits, batch_size: 8, val_size: 100, augment: crop, pad: 1}}
model: {{trunk: vgg, width: 0.0625}}
critics: {{head: pooled, channels: 4, pool_to: 1, lr: 1e-3}}
train: {{iterations: {STEPS}, lr: 0.02, evaluate_every: 80, checkpoint_every: {EVERY}}}
logging: {{every: {LOGGED}}}
"""


@dataclass(frozen=True)
class Started:
    """A torchrun that was started."""

    process: "subprocess.Popen[bytes]"
    output: Path

    @property
    def said(self) -> str:
        """What it and its processes printed."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def ends(self, timeout_s: float) -> int | None:
        """Its exit code; None if it has not ended by then, and is killed."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            for child in _children(self.process.pid):
                os.kill(child, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
            return None


def attempt(scratch: Path, trials: int, seed: int) -> promise.Found:
    """Each trial is one run with one kill."""
    draws = random.Random(seed)
    (scratch / "ranks.yaml").write_text(RECIPE, encoding="utf-8")
    whole = scratch / "whole"
    started = torchrun(2, "train", "ranks.yaml", "--parallel", "layers", "--out", str(whole), cwd=scratch)
    if started.ends(START_S):
        return promise.Found(0, (started.said,))
    failures, waits = [], []
    for number in range(trials):
        size, rank = ((2, 0), (2, 1), (3, 0), (3, 1), (3, 2))[number % 5]
        run = scratch / f"run-{number}"
        failure, waited_s = _one(run, size, rank, draws)
        waits.append(waited_s)
        if failure := failure or _difference(run, whole):
            failures.append(f"trial {number + 1} (rank {rank} of {size}): {failure}")
        shutil.rmtree(run, ignore_errors=True)
    return promise.Found(trials, tuple(failures), {"timeout_s": TIMEOUT_S, "longest_end_s": round(max(waits), 1)})


def torchrun(size: int, *command: str, cwd: Path, launch: Sequence[str] = ()) -> Started:
    """`size` processes of one command of ours, with one thread each.

    Args:
        size: How many.
        command: As after ``lcprune``.
        cwd: Where they work, and leave their output.
        launch: More options of torchrun.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = ["--nnodes=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", f"--nproc-per-node={size}"]
    line = [sys.executable, "-m", "torch.distributed.run", *meeting, *launch, "-m", "lcprune", *command]
    output = cwd / "said.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(line, cwd=cwd, env=environment, stdout=file, stderr=subprocess.STDOUT)
    return Started(process, output)


def wait_for_step(run: Path, step: int, started: Started) -> bool:
    """Whether the run logs so many steps before it ends."""
    metrics = run / runs.METRICS
    while started.process.poll() is None:
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
        if lines and lines[-1].endswith("}") and json.loads(lines[-1])["step"] >= step:
            return True
        time.sleep(0.005)
    return False


def send(number: signal.Signals, started: Started, rank: int) -> None:
    """A signal to the process of a rank.

    Raises:
        ProcessLookupError: If it has ended.
    """
    for process in _children(started.process.pid):
        if f"RANK={rank}".encode() in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
            os.kill(process, number)
            return
    raise ProcessLookupError(f"there is no rank {rank}")


def messages(said: str) -> list[str]:
    """Of lcprune itself, among what torchrun says."""
    return [line for line in said.splitlines() if line.startswith("error: ")]


def _one(run: Path, size: int, rank: int, draws: random.Random) -> tuple[str, float]:
    """What was wrong with a run that lost a rank and went on, and how long the others needed to end."""
    options = ("--parallel", "layers", "--timeout", str(TIMEOUT_S))
    started = torchrun(size, "train", "ranks.yaml", *options, "--out", str(run), cwd=run.parent)
    if not wait_for_step(run, draws.randrange(LOGGED, STEPS - LOGGED, LOGGED), started):
        return f"it did not begin: {started.said[-500:]}", 0.0
    time.sleep(draws.random() * 0.05)
    send(signal.SIGKILL, started, rank)
    at = time.perf_counter()
    code = started.ends(TIMEOUT_S + 40)  # torchrun itself waits half a minute for what does not end
    waited_s = time.perf_counter() - at
    said = messages(started.said)
    if code is None or waited_s > TIMEOUT_S + 5:
        return f"the others had not ended after {waited_s:.0f} s", waited_s
    if not code:
        return "the exit code was 0", waited_s
    if len(said) != 1 or f"rank {rank} (layer group" not in said[0]:
        return f"it said {said}", waited_s
    try:
        if checkpoint.exists(run / runs.CHECKPOINTS):
            verify(run)
        _, complaints = checkpoint.load_newest(run / runs.CHECKPOINTS)
    except LcpruneError as error:
        return error.problem, waited_s
    resumed = torchrun(size, "resume", str(run), cwd=run.parent)
    return "; ".join(complaints) or (resumed.said[-500:] if resumed.ends(START_S) else ""), waited_s


def _difference(run: Path, whole: Path) -> str:
    names = (runs.WEIGHTS, runs.PREDICTIONS)
    different = [name for name in names if runs.sha256(run / name) != runs.sha256(whole / name)]
    return f"{' and '.join(different)} differ from the run that was never stopped" if different else ""


def _children(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


if __name__ == "__main__":
    sys.exit(promise.main(PROMISE, MODULE, attempt, 20))
