"""Trains the same recipe twice: the same bits. And what the deterministic mode costs on this machine.

python -m benchmarks.chaos.same_bits [--trials 10] [--seed 0]
"""

import itertools
import statistics
import sys
import time
from pathlib import Path

from benchmarks.chaos import promise, tiny
from lcprune import runs

PROMISE = "The same recipe, seed and machine give the same weights to the bit."
MODULE = "benchmarks.chaos.same_bits"
STEPS = 400
KINDS = list(
    itertools.product(
        ("local_critic", "backprop", "deep_supervision"), ("fp32", "bf16"), ("contiguous", "channels_last")
    )
)


def attempt(scratch: Path, trials: int, seed: int) -> promise.Found:
    """Each trial is a pair: one plain, one in deterministic mode, which on a CPU must give the same weights."""
    failures, cost = [], []
    for number in range(trials):
        method, precision, memory = KINDS[number % len(KINDS)]
        settings = [f"train.method={method}", f"train.precision={precision}", f"train.seed={seed + number}"]
        settings += [f"train.channels_last={str(memory == 'channels_last').lower()}", f"train.iterations={STEPS}"]
        digests, times = [], []
        for mode in ("false", "true"):
            run = scratch / f"run-{number}-{mode}"
            started = time.process_time()
            tiny.go_on(run, *settings, f"train.deterministic={mode}")
            times.append(time.process_time() - started)
            digests.append(runs.sha256(run / runs.WEIGHTS))
        cost.append(times[1] / times[0])
        if digests[0] != digests[1]:
            failures.append(f"{method}, {precision}, {memory}: two trainings gave different weights")
    return promise.Found(trials, tuple(failures), {"deterministic_cpu_time_ratio": round(statistics.median(cost), 3)})


if __name__ == "__main__":
    sys.exit(promise.main(PROMISE, MODULE, attempt, 12))
