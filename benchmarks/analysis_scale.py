"""Time and memory of evaluation, calibration and selection at the size of ImageNet: arithmetic on logits.

    python -m benchmarks.analysis_scale

It prints a line of JSON, which is the row of `make bench`.

One set of made-up logits, 50,000 x 1,000 of 6 exits (1.2 GB), is the validation split for thresholds and `select`
and the test split for `evaluate`. The limit is 10 s for the three together and 4 GiB at the peak of the process, the
logits among them.
"""

import json

import numpy as np
import numpy.typing as npt

from benchmarks.provenance import Row, command_line, peak_bytes
from benchmarks.timing import repeated
from lcprune.analysis.budget import Family
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


def main() -> None:
    """Measures and prints one JSON object."""
    command_line("benchmarks.analysis_scale", __doc__).parse_args()
    print(json.dumps(measure()))


def measure(samples: int = 50_000, classes: int = 1_000, exits: int = 6, seed: int = 0) -> Row:
    """Seconds of each of the three, of all of them, and the most memory that this process ever held.

    To mean something, ``peak_bytes`` wants a process in which nothing else was done before. The calibration with a
    confidence is not in the sum.
    """
    logits, labels = made_up_predictions(samples, classes, exits, seed)
    # groups of equal cost, with critics of a hundredth of main each
    cost = CascadeCost((1_000_000_000 // exits,) * exits, (10_000_000,) * (exits - 1))

    def evaluate() -> None:
        accuracies_pct(logits, labels)
        ensembles(logits, labels)
        sweep(logits, labels, cost.exit_macs(), cost.main_macs)

    def calibrate(confidence: float | None = None) -> None:
        """What `lcprune export --progressive` computes: thresholds, and what they are expected to lose."""
        Family({"softmax": rows_of(logits, labels, cost)}).within_drop(CALIBRATION_DROP_PCT, confidence)

    def select() -> None:
        """What `lcprune select --confidence 0.95` computes."""
        through = np.cumsum(cost.group_macs)
        costs = [ExitCost(f"exit {k}", k, int(macs), int(macs)) for k, macs in enumerate(through)]
        candidates = candidates_from(costs, (logits, labels), confidence=CONFIDENCE)
        choose(candidates, Budget(max_drop_pct=SELECTION_DROP_PCT * 10, confidence=CONFIDENCE))

    works = {"evaluate_s": evaluate, "calibrate_s": calibrate, "select_s": select}
    row: Row = {"samples": samples, "classes": classes, "exits": exits}
    row |= {name: repeated(work)(1) for name, work in works.items()}
    row["total_s"] = sum(row[name] for name in works)
    row["calibrate_confidence_s"] = repeated(lambda: calibrate(CONFIDENCE))(1)
    row |= {"logits_bytes": float(logits.nbytes), "peak_bytes": float(peak_bytes())}
    row |= {"limit_s": LIMIT_S, "limit_bytes": LIMIT_BYTES}
    return {**row, "met": row["total_s"] <= LIMIT_S and row["peak_bytes"] <= LIMIT_BYTES}


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


if __name__ == "__main__":
    main()
