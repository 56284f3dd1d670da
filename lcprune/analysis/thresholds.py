"""Thresholds that make progressive inference as cheap as an accuracy budget allows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lcprune.analysis.criterion import Criterion, scores
from lcprune.analysis.evaluate import (
    CascadeCost,
    ProgressiveResult,
    cascade,
    check_exits,
    correct_rows,
    drop_pct,
    leave_at,
    within,
)
from lcprune.analysis.intervals import paired_drop_upper_pct
from lcprune.analysis.search import (
    NEVER,
    Bools,
    Rows,
    Setting,
    cheapest_settings,
    main_alone,
    most_accurate_setting,
)

__all__ = [
    "NEVER",
    "Calibration",
    "Rows",
    "calibrate",
    "calibrate_rows",
    "halves",
    "most_accurate",
    "rows_allowed",
    "rows_of",
    "simulate",
]


@dataclass(frozen=True)
class Calibration:
    """Early exits that are worth their critics, their thresholds, and what they do to the validation split."""

    exits: tuple[int, ...]
    """``exit_index`` of the kept early exits, ascending. Empty where main alone is cheapest."""
    thresholds: tuple[float, ...]
    """One per kept exit: midway between neighbouring confidences; 0 lets all rows leave, `NEVER` none."""
    accuracy_pct: float
    drop_pct: float
    """Points below main."""
    mean_macs: float
    macs_ratio: float
    """``mean_macs`` to those of main without critics."""
    exit_fractions: tuple[float, ...]
    """Share of the rows that leave at each kept exit, and last at main."""
    drop_upper_pct: float | None = None
    """Upper end of the one-sided interval of the drop, on the half that did not choose the thresholds."""


def rows_of(
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    cost: CascadeCost,
    criterion: Criterion = "softmax",
    temperatures: Sequence[float] | None = None,
) -> Rows:
    """What the search reads of logits ``(K, N, C)`` and labels ``(N,)``.

    Raises:
        ValueError: If the arguments do not fit each other.
    """
    confidences, predictions = scores(logits, criterion, temperatures)
    classes = predictions if criterion == "agreement" else None
    return Rows(confidences, correct_rows(predictions, labels), cost, classes)


def simulate(rows: Rows, exits: Sequence[int], thresholds: Sequence[float]) -> ProgressiveResult:
    """What the early ``exits`` do to ``rows`` with these thresholds.

    Raises:
        ValueError: If the exits are not ascending early ones, or have not one threshold each.
    """
    kept = [*exits, len(rows.correct) - 1]
    macs = rows.cost.exit_macs(exits)
    return cascade(rows.scores(kept), rows.correct[kept], thresholds, macs, rows.cost.main_macs)


def calibrate(
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    cost: CascadeCost,
    max_drop_pct: float,
    exits: Sequence[int] | None = None,
    confidence: float | None = None,
    seed: int = 0,
    criterion: Criterion = "softmax",
    temperatures: Sequence[float] | None = None,
) -> Calibration:
    """Early exits and thresholds with the fewest mean MACs, at most ``max_drop_pct`` points below main.

    Without ``confidence``, a larger budget never costs more (see `_search`; with more than `MAX_SUBSETS_OF` early
    exits to choose from, it nearly never does). With it, one half of the rows chooses and the other decides, so a
    larger budget may cost more by chance.

    Args:
        logits: Of all exits on the split that decides, ``(K, N, C)``.
        labels: ``(N,)``.
        cost: MACs of the ``K`` groups and their critics.
        max_drop_pct: Points that may be lost.
        exits: ``exit_index`` of the early exits to keep, whether they pay or not. None: those that pay.
        confidence: Of the one-sided interval whose upper end, on the deciding half, is to be within the budget.
            Where no early exit passes, ``exits`` comes back empty.
        seed: Of the halves.
        criterion: What is held against the thresholds.
        temperatures: One per exit, ``(K,)``; with ``confidence``, fitted on the first of `halves` alone.

    Raises:
        ValueError: If the arguments do not fit each other or are out of range.
    """
    rows = rows_of(logits, labels, cost, criterion, temperatures)
    return calibrate_rows(rows, max_drop_pct, exits, confidence, seed)


def calibrate_rows(
    rows: Rows,
    max_drop_pct: float,
    exits: Sequence[int] | None = None,
    confidence: float | None = None,
    seed: int = 0,
) -> Calibration:
    """`calibrate` on what the logits say: confidences and correctness of all exits.

    Raises:
        ValueError: If the arguments do not fit each other or are out of range, or the last exit, which need not be
            main, loses more than ``max_drop_pct`` by itself.
    """
    exits = _checked(rows, exits)
    if not 0 <= max_drop_pct <= 100:
        raise ValueError(f"max_drop_pct {max_drop_pct} is not in 0..100")
    if confidence is not None and not 0.5 <= confidence < 1:
        raise ValueError(f"confidence {confidence} is not in [0.5, 1)")
    if confidence is None:
        allowed = _allowed(rows, max_drop_pct)
        if allowed < 0:
            raise ValueError(f"the last exit alone loses more than {max_drop_pct} points")
        return _calibration(rows, cheapest_settings(rows, rows.losses(), allowed, exits)[-1], None)
    return _bounded(rows, max_drop_pct, exits, confidence, seed)


def most_accurate(
    rows: Rows, cost: CascadeCost, max_mean: float, exits: Sequence[int] | None = None
) -> Calibration | None:
    """Early exits and thresholds that lose fewest rows at a mean ``cost`` of at most ``max_mean``; then the cheapest.

    Args:
        rows: Their own cost is reported, in MACs.
        cost: What is limited: MACs, or nanoseconds in their place.
        max_mean: In the unit of ``cost``.
        exits: As for `calibrate`.

    Returns:
        None where every setting is dearer.

    Raises:
        ValueError: If the arguments do not fit each other.
    """
    exits = _checked(rows, exits)
    limited = replace(rows, cost=cost)
    _checked(limited, exits)
    total = max_mean * rows.n * (1 + 1e-15)  # a mean of these rows comes back as their total, and is met
    setting = most_accurate_setting(limited, rows.losses(), total, exits)
    return None if setting is None else _calibration(rows, setting, None)


def halves(n: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows that choose and those that decide, where a bound is to hold; both ascending."""
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[: n // 2]), np.sort(order[n // 2 :])


def rows_allowed(n: int, max_drop_pct: float) -> int:
    """How many of ``n`` rows may be lost; a budget that is met exactly, to 6 digits, is met."""
    fewest = int(max_drop_pct * n / 100)
    return max(lost for lost in range(fewest, fewest + 2) if lost == fewest or within(100 * lost / n, max_drop_pct))


def _allowed(rows: Rows, max_drop_pct: float) -> int:
    """How many rows may be lost beside those that the last exit loses against main."""
    return rows_allowed(rows.n, max_drop_pct) - int(np.sum(rows.main_correct)) + int(np.sum(rows.correct[-1]))


def _checked(rows: Rows, exits: Sequence[int] | None) -> tuple[int, ...] | None:
    """The exits ascending, each once."""
    n_exits = len(rows.cost.group_macs)
    if not n_exits == len(rows.confidences) == len(rows.correct):
        raise ValueError(f"{len(rows.confidences)} exits do not go with {n_exits} groups")
    exits = None if exits is None else tuple(sorted(set(exits)))
    check_exits(exits or (), n_exits)
    return exits


def _bounded(rows: Rows, max_drop_pct: float, exits: Sequence[int] | None, confidence: float, seed: int) -> Calibration:
    """Walk from the safest setting to the cheaper ones while the bound of the drop holds on unseen rows.

    A fixed sequence of tests that ends at the first failure keeps the error of all of them together at
    1 - ``confidence``: Bauer 1991, Statistics in Medicine 10:871-890; for thresholds, Angelopoulos et al. 2021,
    "Learn then Test", arXiv:2110.01052. The order is fixed before the deciding half is looked at.
    """
    searched, deciding = map(rows.take, halves(rows.n, seed))
    chosen = main_alone(rows)
    chosen_upper = 0.0 if rows.main is None else _drop_upper_pct(deciding, chosen, confidence)
    for setting in _safest_first(searched, max_drop_pct, exits, confidence):
        upper = _drop_upper_pct(deciding, setting, confidence)
        if not within(upper, max_drop_pct):
            break
        chosen, chosen_upper = setting, upper
    return _calibration(rows, chosen, chosen_upper)


def _safest_first(rows: Rows, max_drop_pct: float, exits: Sequence[int] | None, confidence: float) -> list[Setting]:
    """Settings in the order of their bound on the rows that were searched, each cheaper than the one before.

    Most come from a search that does not set gains off against losses: gains that a search has found tend not to
    come again on other rows, and thresholds that count on them fail there.
    """
    net, limit = rows.losses(), _allowed(rows, max_drop_pct) if rows.n else -1
    if limit < 0:
        return []
    more = min(rows.n, limit + rows.n // 20)  # losses that gains may make up for
    found = {*cheapest_settings(rows, net, limit, exits), *cheapest_settings(rows, np.maximum(net, 0), more, exits)}
    main = rows.correct[-1]  # the limit is what may be lost against the last exit
    fitting = [s for s in found if s.exits and np.sum(main) - np.sum(_cascade_correct(rows, s)) <= limit]
    ordered = sorted(fitting, key=lambda s: (_drop_upper_pct(rows, s, confidence), s.total_macs, s.exits))
    cheapest_before = np.minimum.accumulate([np.inf, *(s.total_macs for s in ordered)])
    return [s for s, cheapest in zip(ordered, cheapest_before[:-1], strict=True) if s.total_macs < cheapest]


def _drop_upper_pct(rows: Rows, setting: Setting, confidence: float) -> float:
    return paired_drop_upper_pct(rows.main_correct, _cascade_correct(rows, setting), confidence)


def _cascade_correct(rows: Rows, setting: Setting) -> Bools:
    """Whether each row is right where it leaves, ``(N,)``."""
    kept = [*setting.exits, len(rows.correct) - 1]
    left_at = leave_at(rows.scores(kept), setting.thresholds)
    correct: Bools = np.take_along_axis(rows.correct[kept], left_at[None], axis=0)[0]
    return correct


def _calibration(rows: Rows, setting: Setting, drop_upper_pct: float | None) -> Calibration:
    result = simulate(rows, setting.exits, setting.thresholds)
    return Calibration(
        exits=setting.exits,
        thresholds=setting.thresholds,
        accuracy_pct=result.accuracy_pct,
        drop_pct=drop_pct(rows.main_correct, _cascade_correct(rows, setting)),
        mean_macs=result.mean_macs,
        macs_ratio=result.macs_ratio,
        exit_fractions=result.exit_fractions,
        drop_upper_pct=drop_upper_pct,
    )
