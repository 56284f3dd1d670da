"""Trains the same recipe twice: bit-identical weights; and measures what the deterministic mode costs."""

import itertools
import statistics
import time
from pathlib import Path

from lcprune import runs
from tests.trials.faults.training import Found, differences, train

PROMISE = "The same recipe, seed and machine give bit-identical weights."
STEPS = 400
KINDS = list(itertools.product(("local_critic", "backprop", "deep_supervision"), ("fp32", "bf16"), ("false", "true")))
"""Method, precision and whether memory is channels_last."""


def attempt(scratch: Path, trials: int, seed: int) -> Found:
    """Each trial is a pair: one plain, one in deterministic mode, which on a CPU must give the same weights."""
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
