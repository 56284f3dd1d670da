"""Time and memory of evaluation, calibration and selection at the size of ImageNet: arithmetic on logits.

    python -m benchmarks.analysis_scale [--json] [--samples N] [--classes N] [--exits K] [--seed N]

One set of made-up logits, 50,000 x 1,000 of 6 exits (1.2 GB), is the validation split for thresholds and `select`
and the test split for `evaluate`. The limit is 10 s for the three together and 4 GiB at the peak of the process, the
logits among them.
"""

import argparse
import json
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.provenance import provenance
from lcprune.analysis.budget import Calibration, Family
from lcprune.analysis.cost import CascadeCost, ExitCost
from lcprune.analysis.ensembles import ensembles
from lcprune.analysis.evaluate import accuracies_pct, sweep
from lcprune.analysis.select import Budget, candidates_from, choose
from lcprune.analysis.thresholds import rows_of

LIMIT_S = 10.0
LIMIT_BYTES = 4 << 30

CALIBRATION_DROP_PCT = 0.5
SELECTION_DROP_PCT = 2.0
"""What `lcprune export --progressive` and `lcprune select` allow unless told otherwise."""
CONFIDENCE = 0.95

WORST_ACCURACY_PCT, BEST_ACCURACY_PCT = 50.0, 76.0
SHARPNESS = 2.0
"""Standard deviation of the logits of the classes that are wrong."""
SPREAD = 7.0
"""Standard deviation over the images of how far the right class stands out."""
CHUNK_ROWS = 1_000

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table or, with ``--json``, one JSON object."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.analysis_scale", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    for name, number in (("samples", 50_000), ("classes", 1_000), ("exits", 6), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=number)
    options = parser.parse_args(arguments)
    size = {"samples": options.samples, "classes": options.classes, "exits": options.exits}
    figures = measure(**size, seed=options.seed)
    if options.json:
        print(json.dumps(_report(size, figures, options.seed)))
        return
    print(f"{options.samples:,} x {options.classes:,} logits of {options.exits} exits")
    for name, value in figures.items():
        print(f"  {name:28} {value:.2f} s" if name.endswith("_s") else f"  {name:28} {value / (1 << 30):.2f} GiB")


def measure(*, samples: int = 50_000, classes: int = 1_000, exits: int = 6, seed: int = 0) -> dict[str, float]:
    """Seconds of each of the three, of all of them, and the most memory that this process ever held.

    To mean something, ``peak_bytes`` wants a process in which nothing else was done before.

    Returns:
        ``evaluate_s``, ``calibrate_s``, ``select_s``, their sum ``total_s``; ``calibrate_confidence_s``, which is
        the same with a confidence and is not in the sum; ``logits_bytes`` and ``peak_bytes``.
    """
    logits, labels = made_up_predictions(samples, classes, exits, seed)
    cost = made_up_cost(exits)
    evaluate_s = _seconds(lambda: _evaluate(logits, labels, cost))
    calibrate_s = _seconds(lambda: _calibrate(logits, labels, cost, None))
    select_s = _seconds(lambda: _select(logits, labels, cost))
    confidence_s = _seconds(lambda: _calibrate(logits, labels, cost, CONFIDENCE))
    return {
        "evaluate_s": evaluate_s,
        "calibrate_s": calibrate_s,
        "select_s": select_s,
        "total_s": evaluate_s + calibrate_s + select_s,
        "calibrate_confidence_s": confidence_s,
        "logits_bytes": float(logits.nbytes),
        "peak_bytes": float(_peak_bytes()),
    }


def made_up_predictions(samples: int, classes: int, exits: int, seed: int) -> tuple[Logits, Labels]:
    """Logits ``(K, N, C)`` that look like those of a trained network, and labels ``(N,)``.

    Deeper exits are better, 50 to 76 % for 1,000 classes; all exits find the same images hard; every image has a
    class that it is mistaken for, so that some errors are made with confidence.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    mistaken_for = (labels + rng.integers(1, classes, samples)) % classes
    ease = rng.standard_normal(samples)  # of the image
    lure = rng.standard_normal(samples)  # of the class that it is mistaken for
    logits = np.empty((exits, samples, classes), dtype=np.float32)
    for of_exit, accuracy_pct in zip(logits, np.linspace(WORST_ACCURACY_PCT, BEST_ACCURACY_PCT, exits), strict=True):
        skill = (accuracy_pct - WORST_ACCURACY_PCT) / 100 * 2.8 * SPREAD  # 2.8: the slope of the normal quantile
        for start in range(0, samples, CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            n = len(labels[rows])
            of_exit[rows] = rng.standard_normal((n, classes), dtype=np.float32)
            of_exit[rows] *= SHARPNESS
            own = 0.9 * ease[rows] + 0.44 * rng.standard_normal(n)
            other = 0.9 * lure[rows] + 0.44 * rng.standard_normal(n)
            strongest = SHARPNESS * np.sqrt(2 * np.log(classes))  # about the largest logit of the other classes
            of_exit[start + np.arange(n), labels[rows]] = strongest + skill + SPREAD * own
            of_exit[start + np.arange(n), mistaken_for[rows]] = SPREAD * other
    return logits, labels


def made_up_cost(exits: int) -> CascadeCost:
    """Groups of equal cost with critics of a hundredth of main each."""
    return CascadeCost((1_000_000_000 // exits,) * exits, (10_000_000,) * (exits - 1))


def _evaluate(logits: Logits, labels: Labels, cost: CascadeCost) -> None:
    accuracies_pct(logits, labels)
    ensembles(logits, labels)
    sweep(logits, labels, cost.exit_macs(), cost.main_macs)


def _calibrate(logits: Logits, labels: Labels, cost: CascadeCost, confidence: float | None) -> Calibration | None:
    """What `lcprune export --progressive` computes: thresholds, and what they are expected to lose."""
    return Family({"softmax": rows_of(logits, labels, cost)}).within_drop(CALIBRATION_DROP_PCT, confidence)


def _select(logits: Logits, labels: Labels, cost: CascadeCost) -> None:
    """What `lcprune select --confidence 0.95` computes."""
    through = np.cumsum(cost.group_macs)
    costs = [ExitCost(f"exit {k}", k, int(macs), int(macs)) for k, macs in enumerate(through)]
    candidates = candidates_from(costs, (logits, labels), confidence=CONFIDENCE)
    choose(candidates, Budget(max_drop_pct=SELECTION_DROP_PCT * 10, confidence=CONFIDENCE))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _peak_bytes() -> int:
    """The most memory that was resident at one time."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says holds that of the process that started this one
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        if found:
            return 1024 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KiB


def _report(size: dict[str, int], figures: dict[str, float], seed: int) -> dict[str, Any]:
    return {
        **size,
        **figures,
        "limit_s": LIMIT_S,
        "limit_bytes": LIMIT_BYTES,
        "met": figures["total_s"] <= LIMIT_S and figures["peak_bytes"] <= LIMIT_BYTES,
        **provenance("benchmarks.analysis_scale", seed),
    }


if __name__ == "__main__":
    main()
