"""Several processes of one command, as torchrun starts them, and signals to single ranks. Linux."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lcprune import runs

ROOT = Path(__file__).parents[2]
START_S = 120.0
"""How long torch may take to be imported on a busy machine."""
STEPS, EVERY, LOGGED = 160, 10, 5
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
    """A torchrun process with its output."""

    process: "subprocess.Popen[bytes]"
    output: Path

    @property
    def printed(self) -> str:
        """The output of torchrun and of its processes."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    @property
    def errors(self) -> list[str]:
        """The messages of lcprune itself in it."""
        return [line for line in self.printed.splitlines() if line.startswith("error: ")]

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code; None if it was still running after the time-out, and was killed."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            for child in _children(self.process.pid):
                os.kill(child, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
            return None

    def reaches(self, run: Path, step: int) -> bool:
        """Waits until the run logs that step; False if it ends before."""
        metrics = run / runs.METRICS
        while self.process.poll() is None:
            lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
            if lines and lines[-1].endswith("}") and json.loads(lines[-1])["step"] >= step:
                return True
            time.sleep(0.005)
        return False

    def send(self, number: signal.Signals, rank: int) -> None:
        """Sends a signal to the process of a rank.

        Raises:
            ProcessLookupError: If it has ended.
        """
        for process in _children(self.process.pid):
            if f"RANK={rank}".encode() in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                os.kill(process, number)
                return
        raise ProcessLookupError(f"there is no rank {rank}")


def torchrun(
    processes: int,
    *command: str,
    cwd: Path,
    options: Sequence[str] = (),
    prefix: Sequence[str] = (),
    interface: str = "lo",
    output: str = "output.txt",
) -> Started:
    """Starts processes of one `lcprune` command, with one thread each.

    Args:
        processes: How many on this node.
        command: As after ``lcprune``.
        cwd: Their working folder, with `RECIPE` as ``ranks.yaml``; their output is written there.
        options: More options of torchrun; where none is a meeting point, there is one on this machine.
        prefix: What the command line begins with.
        interface: Of the network, for gloo.
        output: Name of the file with the output.
    """
    (cwd / "ranks.yaml").write_text(RECIPE, encoding="utf-8")
    if not any("--rdzv-endpoint" in option for option in options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            options = ["--nnodes=1", f"--rdzv-endpoint=127.0.0.1:{free.getsockname()[1]}", *options]
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--rdzv-backend=c10d", *options]
    with (cwd / output).open("wb") as file:
        process = subprocess.Popen(
            [*prefix, sys.executable, *launch, "-m", "lcprune", *command],
            cwd=cwd,
            env=environment(interface),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return Started(process, cwd / output)


def environment(interface: str = "lo") -> dict[str, str]:
    """Of a process with one thread that imports this tree."""
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return {**os.environ, **settings, "GLOO_SOCKET_IFNAME": interface}


def _children(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
