"""A long training in tiny steps: memory stays flat, the log is as long as its interval says, steps stay as fast.

A trial is a step. Memory is the resident set, read 200 times after the warm-up. The CPU time of the last tenth of the
steps (10,000 at most) is reported beside that of as many after the warm-up; on a busy machine it varies, so it is no
failure.
"""

import itertools
import resource
import statistics
import time
from pathlib import Path
from typing import Any

from lcprune import runs
from tests.trials.faults.training import Found, Steps, differences, train

EVERY = 1000
"""Steps between checkpoints, evaluations and lines of the log."""
MORE_MEMORY_BYTES = 20e6


class Meter(Steps):
    """Reads memory and CPU time."""

    def __init__(self, steps: int) -> None:
        self.warm = min(5000, steps // 4)
        self.span = min(10_000, steps // 10)
        self._interval = max(1, (steps - self.warm) // 200)
        self._marks = {self.warm, self.warm + self.span, steps - self.span, steps}
        self.memory_bytes: list[int] = []
        self.cpu_s: dict[int, float] = {}

    def stepped(self, step: int, _: Any) -> None:
        """See `Listener`."""
        if step in self._marks:
            self.cpu_s[step] = time.process_time()
        if step >= self.warm and (step - self.warm) % self._interval == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.memory_bytes.append(pages * resource.getpagesize())


def soak(scratch: Path, trials: int, _: int) -> Found:
    """Memory and the speed of a step stay the same over a long training, and its log is as long as it should be.

    One run of `trials` steps.
    """
    every = min(EVERY, max(1, trials // 10))
    intervals = ("train.checkpoint_every", "train.evaluate_every", "logging.every")
    meter = Meter(trials)
    train(scratch / "run", f"train.iterations={trials}", *(f"{key}={every}" for key in intervals), listener=meter)
    lines = (scratch / "run" / runs.METRICS).read_text().count("\n")
    most_lines = 2 * (trials // every + 1)
    grown = max(meter.memory_bytes) - meter.memory_bytes[0]
    failures = [f"memory grew by {grown / 1e6:.1f} MB"] if grown > MORE_MEMORY_BYTES else []
    failures += [f"{runs.METRICS} has {lines} lines, more than {most_lines}"] if lines > most_lines else []
    first_s = meter.cpu_s[meter.warm + meter.span] - meter.cpu_s[meter.warm]
    last_s = meter.cpu_s[trials] - meter.cpu_s[trials - meter.span]
    figures = {
        "memory_after_warm_up_mb": round(meter.memory_bytes[0] / 1e6, 1),
        "memory_grown_mb": round(grown / 1e6, 1),
        "log_lines": lines,
        "steps_timed": meter.span,
        "first_cpu_s": round(first_s, 2),
        "last_cpu_s": round(last_s, 2),
        "last_to_first": round(last_s / first_s, 3),
    }
    return Found(failures, figures)


STEPS = 400
KINDS = list(itertools.product(("local_critic", "backprop", "deep_supervision"), ("fp32", "bf16"), ("false", "true")))
"""Method, precision and whether memory is channels_last."""


def repeat(scratch: Path, trials: int, seed: int) -> Found:
    """The same recipe, seed and machine give bit-identical weights.

    Each trial is a pair: one plain, one in deterministic mode, which on a CPU must give the same weights. What the
    mode costs is measured.
    """
    failures, cost = [], []
    for number in range(trials):
        method, precision, channels_last = KINDS[number % len(KINDS)]
        settings = [f"train.method={method}", f"train.precision={precision}", f"train.channels_last={channels_last}"]
        settings += [f"train.seed={seed + number}", f"train.iterations={STEPS}"]
        pair = [scratch / f"run-{number}-{mode}" for mode in ("false", "true")]
        times_s = []
        for run, mode in zip(pair, ("false", "true"), strict=True):
            started = time.process_time()
            train(run, *settings, f"train.deterministic={mode}")
            times_s.append(time.process_time() - started)
        cost.append(times_s[1] / times_s[0])
        failures += [f"{' '.join(settings)}: {line}" for line in differences(*pair, names=(runs.WEIGHTS,))]
    return Found(failures, {"deterministic_cpu_time_ratio": round(statistics.median(cost), 3)})
