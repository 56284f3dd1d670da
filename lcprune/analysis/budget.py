"""The price of a lost image that keeps a budget on new images, chosen by cross-validation over the deciding images.

The images of each of `FOLDS` parts are evaluated with the criterion, exits and thresholds that the other parts give at
the same price; those of the file come from all. One image more than were lost is counted. Then a budget that is just
kept here is kept on new images on average, though the price was chosen on these: conformal risk control, Angelopoulos
et al. 2022, arXiv:2208.02814; by cross-validation, Cohen et al. 2024, arXiv:2401.11974. With few images that mean would
be one of overruns and of main alone; so the standard error may not be larger than the budget.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lcprune.analysis.evaluate import ProgressiveResult, within
from lcprune.analysis.intervals import score_upper
from lcprune.analysis.thresholds import Alternatives, Ints, Losses, Pay, Setting, settings_at, simulate
from lcprune.specs import Criterion

FOLDS = 5
BLOCKS, BLOCK = 10, 8
"""Prices: blocks, each of which settles criterion and exits once, and their number in a block."""
LOWEST = 0.2
"""The lowest price of a lost image above 0, in the cost of main; the highest is a quarter of the number of images."""


@dataclass(frozen=True, kw_only=True)
class Calibration(ProgressiveResult):
    """Early exits that are worth their critics, their thresholds, and what these do to the deciding images."""

    criterion: Criterion
    exits: tuple[int, ...]
    """``exit_index`` of the kept early exits, ascending. Empty where main alone is best."""
    drop_pct: float
    """Points that the deciding images lose against float32's main."""
    expected_drop_pct: float
    """Points that new images are expected to lose against float32's main."""
    expected_drop_se_pct: float
    """Standard error of `expected_drop_pct`."""
    price: float
    """Of a lost image, in the cost of main."""
    images_needed: int | None
    """See `images_needed`; None where the budget is a cost, or 0 points."""
    drop_upper_pct: float | None
    """Upper end of the one-sided interval of what new images lose, where a confidence was asked for."""


class Family:
    """The best settings at all prices, the highest price first, and what they do to the deciding images."""

    def __init__(
        self,
        rows: Alternatives,
        exits: Sequence[int] | None = None,
        pay: Pay | None = None,
        folds: Ints | None = None,
    ) -> None:
        """Finds them.

        Args:
            rows: The deciding images, by every criterion that may be taken.
            exits: ``exit_index`` of the early exits to keep, whether they pay or not. None: those that pay.
            pay: What becomes least; None: MACs.
            folds: The part of every image, ``(N,)``; copies of an image belong into one. None: random.

        Raises:
            ValueError: If the arguments do not fit each other.
        """
        first = next(iter(rows.values()))
        self.n, self.rows = first.n, rows
        self.pay: Pay = first.cost.exit_macs if pay is None else pay
        self.exits = None if exits is None else tuple(sorted(set(exits)))
        self.folds = np.random.default_rng(0).permutation(self.n) % FOLDS if folds is None else folds
        spread = np.geomspace(max(self.n / 4, 1), LOWEST, BLOCKS * BLOCK) * self.pay(())[-1]
        self.prices = [*np.split(spread, BLOCKS), np.zeros(1)]
        self.settings = settings_at(self.prices, rows, self.pay, self.exits)
        outcomes = [setting.outcome(rows) for setting in self.settings]
        self.drops_pct = [round(100 * int(np.sum(lost)) / self.n, 6) for _, lost in outcomes]
        self.costs = [
            float(np.take(self.pay(setting.exits), left_at).mean())
            for setting, (left_at, _) in zip(self.settings, outcomes, strict=True)
        ]

    @cached_property
    def unseen(self) -> Losses:
        """What every image loses at each price by settings that it had no part in, ``(P, N)``: 1, 0 or -1."""
        unseen = np.zeros((len(self.settings), self.n), dtype=np.int8)
        for fold in np.unique(self.folds):
            inside, outside = np.flatnonzero(self.folds == fold), np.flatnonzero(self.folds != fold)
            learning, judged = ({c: of.take(part) for c, of in self.rows.items()} for part in (outside, inside))
            settings = settings_at(self.prices, learning, self.pay, self.exits)
            unseen[:, inside] = [setting.outcome(judged)[1] for setting in settings]
        return unseen

    def within_drop(
        self, max_drop_pct: float, confidence: float | None = None, least_price: float = 0.0
    ) -> Calibration | None:
        """The cheapest setting by which new images are expected to lose at most ``max_drop_pct`` points.

        A larger budget never costs more. The deciding images do not lose more than the budget either. Without a
        confidence, one standard error is within the budget, or two within what new images are expected to gain.

        Args:
            max_drop_pct: Points that may be lost against float32's main.
            confidence: With it, the upper end of the one-sided interval of what new images lose is within the budget.
            least_price: Of a lost image, in the cost of main.

        Returns:
            None where no price from ``least_price`` keeps the budget.

        Raises:
            ValueError: If an argument is out of its range.
        """
        if not 0 <= max_drop_pct <= 100:
            raise ValueError(f"max_drop_pct {max_drop_pct} is not in 0..100")
        if confidence is not None and not 0.5 <= confidence < 1:
            raise ValueError(f"confidence {confidence} is not in [0.5, 1)")
        if confidence is None:
            tested = [at for at in range(len(self.settings)) if self._is_certain(at, max_drop_pct)]
        else:
            tested = list(range(self._passed(max_drop_pct, confidence)))
        kept = [
            at
            for at in tested
            if self._price(at) >= least_price * (1 - 1e-12)
            and within(max(self.drops_pct[at], self._expected_pct(at, 1)), max_drop_pct)
        ]
        if not kept:
            return None
        return self._calibration(min(kept, key=lambda at: (self.costs[at], at)), 1, max_drop_pct, confidence)

    def within_cost(self, max_mean: float) -> Calibration | None:
        """The setting of the highest price at which the deciding images cost at most ``max_mean``, if there is one."""
        affordable = [at for at, cost in enumerate(self.costs) if cost <= max_mean * (1 + 1e-12)]
        return self._calibration(affordable[0], 0, 0, None) if affordable else None

    def frontier(self, max_drop_pct: float) -> list[Setting]:
        """Settings by which the deciding images lose at most so many points, each cheaper than all before."""
        cheapest_before = np.minimum.accumulate([math.inf, *self.costs])
        figures = zip(self.settings, self.costs, cheapest_before[:-1], self.drops_pct, strict=True)
        return [found for found, cost, least, lost in figures if cost < least and within(lost, max_drop_pct)]

    def _passed(self, max_drop_pct: float, confidence: float) -> int:
        """How many prices, from the highest, keep the budget with a confidence.

        A fixed sequence of tests that ends at the first failure keeps the error of all of them together at
        1 - ``confidence``: Bauer 1991, Statistics in Medicine 10:871-890; for thresholds, Angelopoulos et al. 2021,
        "Learn then Test", arXiv:2110.01052.
        """
        every = range(len(self.settings))
        return next((at for at in every if not within(self._upper_pct(at, confidence), max_drop_pct)), len(every))

    def images_to_defend(self, max_drop_pct: float) -> int | None:
        """Deciding images at which the standard error of the surest early exits is the budget; None if that is 0."""
        early = [at for at in range(len(self.settings)) if self.settings[at].exits]
        within_budget = [at for at in early if within(self._expected_pct(at, 1), max_drop_pct)] or early
        return images_needed(2 * max_drop_pct, min(map(self._variance, within_budget), default=0.0))

    def _is_certain(self, at: int, max_drop_pct: float) -> bool:
        error_pct = 100 * math.sqrt(self._variance(at) / self.n)
        return within(error_pct, max(max_drop_pct, -self._expected_pct(at, 1) / 2))

    def _variance(self, at: int) -> float:
        return 0.0 if self._is_main(at) else float(np.var(self.unseen[at]))

    def _price(self, at: int) -> float:
        return float(np.concatenate(self.prices)[at]) / self.pay(())[-1]

    def _is_main(self, at: int) -> bool:
        return not self.settings[at].exits and next(iter(self.rows.values())).main is None

    def _expected_pct(self, at: int, more_lost: int) -> float:
        lost = int(np.sum(self.unseen[at], dtype=np.int64))
        return 0.0 if self._is_main(at) else 100 * (lost + more_lost) / (self.n + more_lost)

    def _upper_pct(self, at: int, confidence: float) -> float:
        lost, gained = (int(np.count_nonzero(self.unseen[at] == sign)) for sign in (1, -1))
        return 0.0 if self._is_main(at) else 100 * score_upper(lost, gained, self.n, confidence)

    def _calibration(self, at: int, more_lost: int, max_drop_pct: float, confidence: float | None) -> Calibration:
        setting, variance = self.settings[at], self._variance(at)
        return Calibration(
            **vars(simulate(self.rows[setting.criterion], setting.exits, setting.thresholds)),
            criterion=setting.criterion,
            exits=setting.exits,
            drop_pct=self.drops_pct[at],
            expected_drop_pct=self._expected_pct(at, more_lost),
            expected_drop_se_pct=100 * math.sqrt(variance / self.n),
            price=self._price(at),
            images_needed=images_needed(max_drop_pct, variance),
            drop_upper_pct=None if confidence is None else self._upper_pct(at, confidence),
        )


def images_needed(max_drop_pct: float, variance: float = 0.0) -> int | None:
    """Deciding images at which a standard error of the expected drop is half of the budget: 4 v / b^2; None if b is 0.

    Args:
        max_drop_pct: The budget b, in points to 6 digits.
        variance: v, of what an image loses (1, 0 or -1); at least b (1 - b), where b are lost and none gained.
    """
    budget = round(max_drop_pct, 6) / 100
    if not budget:
        return None
    return math.ceil(4 * max(variance, budget * (1 - budget)) / budget**2)
