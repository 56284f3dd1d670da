"""Thresholds from one price of a lost image, in the unit of the cost of the exits.

An image that takes exit k costs what was computed up to there, and the price if it is lost there: only main is right.
Where only exit k is right, the price is subtracted, but at most `GAIN` times the cost of main: such gains seldom recur
on other images, and at a high price the thresholds would be fitted to them. An image that continues costs what the
exits behind, whose thresholds are chosen first, make of it. So with the images in the order of their score at exit k,
the highest first, the best threshold is where the running sum of (continuing - exiting) is largest. One number gives
all thresholds: the higher the price, the fewer images are lost and the more is computed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.evaluate import ProgressiveResult, cascade, correct_rows, leave_at
from lcprune.specs import Criterion
from lcprune_runtime.criterion import BoolArray, FloatArray, IntArray, agreeing, scores

NEVER = 1.01
"""A threshold that no score reaches."""
GAIN = 15
"""Largest gain of an image that only an early exit classifies correctly, in units of the cost of main."""
MIN_GAP = 2e-6
"""Neighbouring scores closer than this are not separated: another runtime may round them across a threshold."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Losses = npt.NDArray[np.int8]
Pay = Callable[[Sequence[int] | None], Sequence[float]]
"""Cost of an image that takes each kept early exit, and last of one that takes none: MACs, or a time."""


@dataclass(frozen=True)
class Rows:
    """What thresholds are chosen from: score and correctness of some images at all exits, ``(K, N)``."""

    confidences: npt.NDArray[np.float32]
    """Scores of a criterion; of ``agreement`` those that every exit would give as the first one."""
    correct: BoolArray
    cost: CascadeCost
    classes: Ints | None = None
    """Of all exits, ``(K, N)``, where images shall leave with the class of the exit before (``agreement``)."""
    main: BoolArray | None = None
    """Whether float32's main is right, ``(N,)``, where the last of these exits is another one."""

    def __post_init__(self) -> None:
        """Refuses exits that do not belong to one cascade.

        Raises:
            ValueError: If cost, scores and correctness are of different numbers of exits.
        """
        if not len(self.cost.group_macs) == len(self.confidences) == len(self.correct):
            raise ValueError(f"{len(self.confidences)} exits do not go with {len(self.cost.group_macs)} groups")

    @property
    def main_correct(self) -> BoolArray:
        """Whether main is right, ``(N,)``: what drops are measured from."""
        return self.correct[-1] if self.main is None else self.main

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.correct[0])

    def kept(self, exits: Sequence[int]) -> "Rows":
        """These exits alone, ascending, the last of which takes every image that reaches it."""
        kept = list(exits)
        classes = None if self.classes is None else self.classes[kept]
        return Rows(self.confidences[kept], self.correct[kept], self.cost.kept(exits), classes, self.main_correct)

    def take(self, rows: Ints) -> "Rows":
        """Some of the images."""
        classes = None if self.classes is None else self.classes[:, rows]
        main = None if self.main is None else self.main[rows]
        return Rows(self.confidences[:, rows], self.correct[:, rows], self.cost, classes, main)

    def scores(self, exits: Sequence[int]) -> npt.NDArray[np.float32]:
        """What decides in a cascade of these ``exits``, ``(len(exits), N)``."""
        found = self.confidences[list(exits)]
        return found if self.classes is None else agreeing(found, self.classes[list(exits)])

    def losses(self) -> Losses:
        """Images lost at each exit against main, ``(K, N)``: 1, 0, or -1 for a gain."""
        losses: Losses = np.subtract(self.main_correct, self.correct, dtype=np.int8)
        return losses


Alternatives = Mapping[Criterion, Rows]
"""The same images by every criterion that may decide."""


@dataclass(frozen=True)
class Setting:
    """A criterion, the kept early exits, and a threshold for each."""

    criterion: Criterion
    exits: tuple[int, ...]
    """``exit_index``, ascending."""
    thresholds: tuple[float, ...]
    """Midway between neighbouring scores; all images meet 0, none meets `NEVER`."""

    def outcome(self, rows: Alternatives) -> tuple[Ints, Losses]:
        """The exit that each image takes, and what that loses against main: 1, 0 or -1; ``(N,)`` each."""
        of_rows, kept = rows[self.criterion], [*self.exits, len(rows[self.criterion].correct) - 1]
        left_at = leave_at(of_rows.scores(kept), self.thresholds)
        lost: Losses = np.take_along_axis(of_rows.losses()[kept], left_at[None], axis=0)[0]
        return left_at, lost


@dataclass(frozen=True)
class _Ranking:
    """The images in the order of their score at one exit, the highest first."""

    order: Ints
    """Those that may leave: all but NaN."""
    rank: Ints
    """``(N,)``; of those that may not leave, the largest."""
    cuts: Ints
    """How many may leave together, ascending: ties, and what is closer than `MIN_GAP`, are not parted."""
    thresholds: Floats
    """Of every cut."""


def rows_of(
    logits: FloatArray,
    labels: IntArray,
    cost: CascadeCost,
    criterion: Criterion = "softmax",
    temperatures: Sequence[float] | None = None,
) -> Rows:
    """What thresholds are chosen from, out of logits ``(K, N, C)`` and labels ``(N,)``.

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


def settings_at(
    prices: Sequence[Floats], rows: Alternatives, pay: Pay, exits: tuple[int, ...] | None = None
) -> list[Setting]:
    """The best setting at every price.

    Args:
        prices: Of a lost image, in the unit of ``pay``; in blocks, at whose middle criterion and exits are settled.
        rows: That decide.
        pay: Cost of the exits.
        exits: To keep, whether they pay or not. None: those whose loss would make the whole dearer, dropped one by one.

    Raises:
        ValueError: If the exits are not ascending early ones.
    """
    passes = {criterion: _backward_pass(of_criterion, pay) for criterion, of_criterion in rows.items()}
    middles = np.array([block[len(block) // 2] for block in prices])
    first = tuple(range(len(pay(None)) - 1)) if exits is None else exits
    kept = {criterion: _worthwhile(settle, middles, first, exits is None) for criterion, settle in passes.items()}
    found = []
    for at, block in enumerate(prices):
        criterion = min(kept, key=lambda name: kept[name][at][0])
        _, best = kept[criterion][at]
        thresholds, _ = passes[criterion](best, block)
        found += [Setting(criterion, best, tuple(row)) for row in thresholds.tolist()]
    return found


_Pass = Callable[[tuple[int, ...], Floats], tuple[Floats, Floats]]
"""Of exits and prices ``(P,)``: thresholds ``(P, exits)``, and what an image costs on average, losses included."""


def _backward_pass(rows: Rows, pay: Pay) -> _Pass:
    """Ranks every exit once, or, where the class before counts, once after each exit that may stand before it."""
    losses, most = rows.losses().astype(np.intp), GAIN * pay(())[-1]

    @cache
    def ranking(before: int | None, exit_index: int) -> _Ranking:
        return _ranking(rows.scores((exit_index,) if before is None else (before, exit_index))[-1])

    def settle(exits: tuple[int, ...], prices: Floats) -> tuple[Floats, Floats]:
        *at_exits, at_end = pay(exits)
        worth = np.stack([np.zeros_like(prices), prices, -np.minimum(prices, most)], axis=1)  # of 0, 1 and -1 lost
        thresholds = np.empty((len(prices), len(exits)))
        going_on = (at_end + worth).take(losses[-1], axis=1)  # (P, N)
        for place in reversed(range(len(exits))):
            before = exits[place - 1] if place and rows.classes is not None else None
            ranked = ranking(before, exits[place])
            leaving = (at_exits[place] + worth).take(losses[exits[place]], axis=1)
            saved = np.zeros((len(prices), len(ranked.order) + 1))
            np.cumsum((going_on - leaving).take(ranked.order, axis=1), axis=1, out=saved[:, 1:])
            best = saved.take(ranked.cuts, axis=1).argmax(axis=1)  # (P,)
            thresholds[:, place] = ranked.thresholds[best]
            np.copyto(going_on, leaving, where=ranked.rank < ranked.cuts[best, None])
        return thresholds, going_on.mean(axis=1) if rows.n else np.zeros(len(prices))

    return settle


def _worthwhile(
    settle: _Pass, prices: Floats, exits: tuple[int, ...], may_drop: bool = True
) -> list[tuple[float, tuple[int, ...]]]:
    """For each of the prices ``(P,)`` what an image costs and by which exits.

    These are all, less the one without which it costs least, and so on until that costs more, if one may be dropped.
    """
    costs = settle(exits, prices)[1]
    found = [(float(cost), exits) for cost in costs]
    fewer = [tuple(k for k in exits if k != dropped) for dropped in exits]
    if not fewer or not may_drop:
        return found
    without = np.stack([settle(others, prices)[1] for others in fewer])  # (exits, P)
    for place, others in enumerate(fewer):
        better = np.flatnonzero((without.argmin(axis=0) == place) & (without[place] <= costs))
        if len(better):
            for at, smaller in zip(better, _worthwhile(settle, prices[better], others), strict=True):
                found[at] = smaller
    return found


def _ranking(confidences: npt.NDArray[np.float32]) -> _Ranking:
    order = np.argsort(-confidences, kind="stable")  # NaN comes last
    order = order[: np.count_nonzero(~np.isnan(confidences))]
    descending = confidences[order].astype(np.float64)
    inner = np.flatnonzero(descending[:-1] - descending[1:] >= MIN_GAP) + 1
    midway = ((descending[inner - 1] + descending[inner]) / 2).astype(np.float32)
    rank = np.full(len(confidences), len(order))
    rank[order] = np.arange(len(order))
    return _Ranking(order, rank, np.array([0, *inner, len(order)]), np.array([NEVER, *midway, 0.0]))
