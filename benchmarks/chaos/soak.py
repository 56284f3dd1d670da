"""A long training in tiny steps: memory stays flat, the log is as long as its interval says, steps stay as fast.

    python -m benchmarks.chaos.soak [--trials 200000]

A trial is a step. Memory is the resident set, read after the warm-up and 200 times on the way to the end. The CPU time
of the last tenth of the steps (10,000 at most) is reported beside that of as many after the warm-up; on a busy machine
it varies, so it is no failure.
"""

import resource
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.chaos import promise, tiny
from lcprune import runs

PROMISE = "Memory and the speed of a step stay the same over a long training, and its log is as long as it should be."
MODULE = "benchmarks.chaos.soak"
EVERY = 1000
"""Steps between checkpoints, evaluations and lines of the log."""
MORE_MEMORY_BYTES = 20e6
PAGE_BYTES = resource.getpagesize()


class Watch:
    """A listener that reads memory and CPU time."""

    def __init__(self, steps: int) -> None:
        """For a run of so many steps."""
        self.warm = min(5000, steps // 4)
        self.span = min(10_000, steps // 10)
        self._look_every = max(1, (steps - self.warm) // 200)
        self._marks = {self.warm, self.warm + self.span, steps - self.span, steps}
        self.memory_bytes: list[int] = []
        self.cpu_s: dict[int, float] = {}

    def stepped(self, step: int, _: Any) -> None:
        """See `Listener`."""
        if step in self._marks:
            self.cpu_s[step] = time.process_time()
        if step >= self.warm and (step - self.warm) % self._look_every == 0:
            self.memory_bytes.append(resident_bytes())

    def evaluated(self, _: Any) -> None:
        """See `Listener`."""


def resident_bytes() -> int:
    """Memory of this process that is not swapped out."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def attempt(scratch: Path, trials: int, _: int) -> promise.Found:
    """One run of `trials` steps."""
    every = min(EVERY, max(1, trials // 10))
    intervals = ("train.checkpoint_every", "train.evaluate_every", "logging.every")
    watch = Watch(trials)
    tiny.go_on(scratch / "run", f"train.iterations={trials}", *(f"{key}={every}" for key in intervals), steps=watch)
    lines = (scratch / "run" / runs.METRICS).read_text().count("\n")
    most_lines = 2 * (trials // every + 1)
    grown = max(watch.memory_bytes) - watch.memory_bytes[0]
    failures = []
    if grown > MORE_MEMORY_BYTES:
        failures.append(f"memory grew by {grown / 1e6:.1f} MB")
    if lines > most_lines:
        failures.append(f"{runs.METRICS} has {lines} lines, more than {most_lines}")
    first = watch.cpu_s[watch.warm + watch.span] - watch.cpu_s[watch.warm]
    last = watch.cpu_s[trials] - watch.cpu_s[trials - watch.span]
    figures = {
        "memory_after_warm_up_mb": round(watch.memory_bytes[0] / 1e6, 1),
        "memory_grown_mb": round(grown / 1e6, 1),
        "log_lines": lines,
        "steps_timed": watch.span,
        "first_cpu_s": round(first, 2),
        "last_cpu_s": round(last, 2),
        "last_to_first": round(last / first, 3),
    }
    return promise.Found(trials, tuple(failures), figures)


if __name__ == "__main__":
    sys.exit(promise.main(PROMISE, MODULE, attempt, 200_000))
