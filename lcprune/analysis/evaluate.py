"""Accuracy and cost of exits, ensembles and progressive inference, as arithmetic on stored logits.

Logits are ``(K, N, C)`` float32, shallow exits first and ``main`` last; labels are ``(N,)``.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lcprune.analysis.criterion import Criterion, agreeing, chunks, predicted_classes, row_classes, scores

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]
Paid = TypeVar("Paid", int, float)

SWEEP_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""The common thresholds that `sweep` tries, unless told otherwise."""


@dataclass(frozen=True)
class CascadeCost:
    """MACs of the parts of a cascade, for one image."""

    group_macs: tuple[int, ...]
    """Of every group, ``(K,)``."""
    critic_macs: tuple[int, ...]
    """Of every critic, ``(K - 1,)``: main has none."""

    def __post_init__(self) -> None:
        """Refuse counts that fit no network.

        Raises:
            ValueError: If the two do not belong to one cascade, or a count is negative.
        """
        if not self.group_macs or len(self.critic_macs) != len(self.group_macs) - 1:
            raise ValueError(f"{len(self.group_macs)} groups do not go with {len(self.critic_macs)} critics")
        if min(self.group_macs + self.critic_macs) < 0:
            raise ValueError(f"MACs cannot be negative: {self}")

    @property
    def main_macs(self) -> int:
        """MACs of main alone: all groups, no critic."""
        return sum(self.group_macs)

    def ending_at(self, k: int) -> "CascadeCost":
        """The first `k` exits alone: what was critic `k` now ends the last group."""
        if k == len(self.group_macs):
            return self
        last = self.group_macs[k - 1] + self.critic_macs[k - 1]
        return CascadeCost((*self.group_macs[: k - 1], last), self.critic_macs[: k - 1])

    def exit_macs(self, kept: Sequence[int] | None = None) -> tuple[int, ...]:
        """MACs paid by a row that leaves at each kept early exit, and last by one that goes on to main.

        Args:
            kept: ``exit_index`` of the early exits in the cascade, ascending; the others' critics are not
                computed. None keeps all.

        Raises:
            ValueError: If ``kept`` is not ascending or names no early exit.
        """
        return paid_at_exits(self.group_macs, self.critic_macs, kept)


@dataclass(frozen=True)
class ProgressiveResult:
    """What progressive inference does to a data set at fixed thresholds."""

    thresholds: tuple[float, ...]
    """One per early exit."""
    accuracy_pct: float
    mean_macs: float
    """Mean over the rows, critics included."""
    macs_ratio: float
    """``mean_macs`` to those of main without critics."""
    exit_fractions: tuple[float, ...]
    """Share of the rows that leave at each early exit, and last at main."""


@dataclass(frozen=True)
class Evaluation:
    """What the logits of a data set say of a network."""

    accuracies_pct: tuple[float, ...]
    """Of every exit, shallow first."""
    ensembles: dict[str, float]
    """See `ensembles`."""
    progressive: tuple[ProgressiveResult, ...]
    """See `sweep`; empty where there is no early exit."""


def paid_at_exits(
    groups: Sequence[Paid], critics: Sequence[Paid], kept: Sequence[int] | None = None
) -> tuple[Paid, ...]:
    """`CascadeCost.exit_macs` for groups and critics in any unit."""
    exits: Sequence[int] = range(len(critics)) if kept is None else kept
    check_exits(exits, len(groups))
    ends = [*exits, len(groups) - 1]
    return tuple(sum(groups[: end + 1]) + sum(critics[k] for k in exits if k <= end) for end in ends)


def check_exits(exits: Sequence[int], n_exits: int) -> None:
    """Refuse what is not an ascending choice among the early exits of a network with ``n_exits`` exits.

    Raises:
        ValueError: If ``exits`` repeats, descends, or leaves 0 to ``n_exits - 2``.
    """
    if list(exits) != sorted(set(exits)) or not set(exits) <= set(range(n_exits - 1)):
        raise ValueError(f"exits {list(exits)} are not an ascending choice from {list(range(n_exits - 1))}")


def evaluate(
    logits: FloatArray,
    labels: IntArray,
    cost: CascadeCost,
    thresholds: Sequence[float] = SWEEP_THRESHOLDS,
    criterion: Criterion = "softmax",
) -> Evaluation:
    """`accuracies_pct`, `ensembles` and, where there are early exits, `sweep`.

    Raises:
        ValueError: If the arguments do not fit each other.
    """
    swept = sweep(logits, labels, cost.exit_macs(), cost.main_macs, thresholds, criterion) if len(logits) > 1 else ()
    return Evaluation(accuracies_pct(logits, labels), ensembles(logits, labels), swept)


def accuracies_pct(logits: FloatArray, labels: IntArray) -> tuple[float, ...]:
    """Accuracy of every exit, shallow first.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    correct = correct_rows(predicted_classes(logits), labels)
    return tuple(accuracy_pct(of_exit) for of_exit in correct)


def correct_rows(predictions: IntArray, labels: IntArray) -> BoolArray:
    """Whether each prediction ``(K, N)`` is the label ``(N,)``.

    Raises:
        ValueError: If the shapes do not fit each other (numpy would broadcast them).
    """
    if labels.shape != predictions.shape[-1:]:
        raise ValueError(f"labels are {labels.shape} but predictions are {predictions.shape}")
    return np.equal(predictions, labels)


def accuracy_pct(correct: BoolArray) -> float:
    """How many of the rows are correct, in percent."""
    return 100 * int(np.count_nonzero(correct)) / correct.size


def drop_pct(reference_correct: BoolArray, candidate_correct: BoolArray) -> float:
    """Points that the candidate ``(N,)`` is below the reference ``(N,)``, to 6 digits; from counts, so exactly."""
    lost = int(np.count_nonzero(reference_correct)) - int(np.count_nonzero(candidate_correct))
    return round(100 * lost / reference_correct.size, 6)


def drop_se_pct(reference_correct: BoolArray, candidate_correct: BoolArray) -> float:
    """Standard error of `drop_pct`, of images that both have seen."""
    lost = reference_correct.astype(np.float64) - candidate_correct
    return 100 * float(np.std(lost)) / float(np.sqrt(lost.size))


def within(value: float, limit: float) -> bool:
    """Whether a budget is met, to 6 digits: met exactly is met, though in floats 50.02 - 49.72 is over 0.3."""
    return round(value, 6) <= round(limit, 6)


def ensemble_members(n_exits: int, names: Sequence[str] = ()) -> dict[str, int]:
    """Names of the sets of exits that are combined, and how many of the first exits each has: "1+2", "1+2+main".

    `names` are those of the exits, where they are not all that a network has.
    """
    names = names or [*(str(k) for k in range(1, n_exits)), "main"]
    return {"+".join(names[:size]): size for size in (n_exits - 1, n_exits) if size > 1}


def ensembles(logits: FloatArray, labels: IntArray, names: Sequence[str] = ()) -> dict[str, float]:
    """Accuracy in percent of summed outputs: of all sub-models ("1+2+3") and of all exits ("1+2+3+main").

    Source: Lee and Lee 2018, arXiv:1805.01128, Figure 4b. A sum of one exit alone is no ensemble and is left out.
    `names` are as in `ensemble_members`.
    """
    members = ensemble_members(len(logits), names)
    if not members:
        return {}
    n_correct = dict.fromkeys(members.values(), 0)
    for rows in chunks(*logits.shape[1:]):
        for size, classes in _ensemble_classes(logits[:, rows], n_correct):
            n_correct[size] += int(np.count_nonzero(correct_rows(classes, labels[rows])))
    return {name: 100 * n_correct[size] / len(labels) for name, size in members.items()}


def leave_at(confidences: FloatArray, thresholds: Sequence[float]) -> npt.NDArray[np.int64]:
    """Where each row leaves, ``(N,)``: the first early exit that is confident enough, else the last exit.

    Args:
        confidences: ``(K, N)`` or ``(K - 1, N)``, in [0, 1]. NaN is never confident enough.
        thresholds: One per early exit, ``(K - 1,)``. Compared in float32, as in the exported graph.

    Raises:
        ValueError: If there is no threshold for every early exit.
    """
    if len(confidences) - len(thresholds) not in (0, 1):
        raise ValueError(f"{len(thresholds)} thresholds do not go with confidences {confidences.shape}")
    limits = np.asarray(thresholds, dtype=np.float32)[:, None]
    early = confidences[: len(thresholds)].astype(np.float32, copy=False) >= limits  # (K - 1, N)
    last = np.ones((1, confidences.shape[1]), dtype=bool)
    left_at: npt.NDArray[np.int64] = np.concatenate([early, last]).argmax(axis=0)
    return left_at


def sweep(
    logits: FloatArray,
    labels: IntArray,
    exit_macs: Sequence[int],
    main_macs: int,
    thresholds: Sequence[float | Sequence[float]] = SWEEP_THRESHOLDS,
    criterion: Criterion = "softmax",
    temperatures: Sequence[float] | None = None,
) -> tuple[ProgressiveResult, ...]:
    """Accuracy and mean MACs when every row leaves at the first exit that is confident enough, for each of thresholds.

    Args:
        logits: Of the exits in the cascade, main last, ``(K, N, C)``.
        labels: ``(N,)``.
        exit_macs: Paid by a row that leaves at each exit, ``(K,)``: `CascadeCost.exit_macs`.
        main_macs: Of main without critics, which ``macs_ratio`` is measured by.
        thresholds: Each is one for all early exits, or one per early exit, ``(K - 1,)``.
        criterion: Of leaving.
        temperatures: One per exit, ``(K,)``; None leaves the logits as they are.
    """
    found, classes = scores(logits, criterion, temperatures)
    confidences = agreeing(found, classes) if criterion == "agreement" else found
    correct, early = correct_rows(classes, labels), len(logits) - 1
    each = ([limits] * early if isinstance(limits, int | float) else limits for limits in thresholds)
    return tuple(cascade(confidences, correct, limits, exit_macs, main_macs) for limits in each)


def cascade(
    confidences: FloatArray,
    correct: BoolArray,
    thresholds: Sequence[float],
    exit_macs: Sequence[int],
    main_macs: int,
) -> ProgressiveResult:
    """One of `sweep`, on what the logits say: confidences and correctness of every exit, ``(K, N)`` each.

    Raises:
        ValueError: If the exits of the arguments do not agree in number.
    """
    if not len(confidences) == len(correct) == len(exit_macs) == len(thresholds) + 1:
        raise ValueError(
            f"{len(confidences)} confidences, {len(correct)} correct, {len(exit_macs)} exit_macs and "
            f"{len(thresholds)} thresholds are not of one cascade"
        )
    left_at = leave_at(confidences, thresholds)
    counts = np.bincount(left_at, minlength=len(exit_macs))
    mean_macs = float(counts @ np.asarray(exit_macs, dtype=np.float64)) / len(left_at)
    return ProgressiveResult(
        thresholds=tuple(float(threshold) for threshold in thresholds),
        accuracy_pct=accuracy_pct(np.take_along_axis(correct, left_at[None], axis=0)),
        mean_macs=mean_macs,
        macs_ratio=mean_macs / main_macs,
        exit_fractions=tuple((counts / len(left_at)).tolist()),
    )


def _ensemble_classes(logits: FloatArray, sizes: Container[int]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Classes of the sum over the first exits of ``(K, n, C)``, for those numbers of exits that are in ``sizes``."""
    summed = logits[0].astype(np.float32)
    for size, of_exit in enumerate(logits[1:], start=2):
        with np.errstate(over="ignore", invalid="ignore"):  # such a row has no prediction
            summed += of_exit.astype(np.float32, copy=False)
        if size in sizes:
            yield size, row_classes(summed)[0]
