"""The search for exits and thresholds that save most MACs without losing more rows than allowed.

Words used below: the rows are sorted by their confidence at every early exit, rows too close to tell apart share a
`rank` (0 is the most confident), and a `cut` of c lets the rows of rank 0 to c - 1 leave. A choice of cuts saves
MACs against a cascade that nobody leaves early, and loses rows that main would have had right.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, combinations

import numpy as np
import numpy.typing as npt

from lcprune.analysis.criterion import agreeing
from lcprune.analysis.evaluate import CascadeCost

NEVER = 1.01
"""A threshold that no confidence reaches."""

MIN_GAP = 2e-6
"""Neighbouring confidences closer than this are not separated: another runtime may round them across a threshold."""

MAX_SUBSETS_OF = 6
"""Up to this many early exits every subset is searched, beyond it exits are added one by one."""

EXACT_CELLS = 1 << 20
"""Combinations of cuts that are all looked at, where there are no more than this."""
GRID_CELLS = 1 << 17
"""Combinations of cuts on the coarse grid that starts a search which cannot look at all."""
NEAR, FAR = 24, 48
"""Cuts on either side of the current one, and cuts spread over all, that a pair move tries at each of its exits."""
MAX_ROUNDS = 4
"""Times that all pairs are moved at one step of the ladder, unless they stop improving sooner."""

BLOCK = 1 << 13
"""Rows counted together: few enough for their arrays to stay in a core's cache."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Losses = npt.NDArray[np.int8]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """What the search reads of some rows: confidence and correctness at all exits, ``(K, N)``."""

    confidences: npt.NDArray[np.float32]
    """Scores of a criterion; of ``agreement`` those that every exit would give as the first one."""
    correct: Bools
    cost: CascadeCost
    classes: Ints | None = None
    """Of all exits, ``(K, N)``, where rows shall leave with the class of the exit before (``agreement``)."""
    main: Bools | None = None
    """Whether main is right, ``(N,)``, where the last of these exits is another one."""

    @property
    def main_correct(self) -> Bools:
        """Whether main is right, ``(N,)``: what drops are measured from."""
        return self.correct[-1] if self.main is None else self.main

    def ending_at(self, k: int) -> "Rows":
        """The first `k` exits alone, where the last of them takes every row that comes to it."""
        classes = None if self.classes is None else self.classes[:k]
        cost = self.cost.ending_at(k)
        return Rows(self.confidences[:k], self.correct[:k], cost, classes, self.main_correct)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.correct[0])

    def take(self, rows: Ints) -> "Rows":
        """Some of the rows."""
        classes = None if self.classes is None else self.classes[:, rows]
        main = None if self.main is None else self.main[rows]
        return Rows(self.confidences[:, rows], self.correct[:, rows], self.cost, classes, main)

    def scores(self, exits: Sequence[int]) -> npt.NDArray[np.float32]:
        """What decides in a cascade of these ``exits``, ``(len(exits), N)``."""
        found = self.confidences[list(exits)]
        return found if self.classes is None else agreeing(found, self.classes[list(exits)])

    def losses(self) -> Losses:
        """What leaving at each early exit loses against the last one, ``(K - 1, N)``: 1, 0, or -1 for a gain."""
        losses: Losses = np.subtract(self.correct[-1], self.correct[:-1], dtype=np.int8)
        return losses


@dataclass(frozen=True)
class Setting:
    """Kept exits with their thresholds, and their total MACs on the rows that were searched."""

    exits: tuple[int, ...]
    thresholds: tuple[float, ...]
    total_macs: float


@dataclass(frozen=True)
class _Ranking:
    """The rows in the order of their confidence at one exit."""

    rank: Ints
    """``(N,)``. Rows that never leave (NaN) have the largest."""
    thresholds: tuple[float, ...]
    """The threshold of every cut, from `NEVER` to 0."""

    def intervals(self, cuts: Ints) -> Ints:
        """How many of the ascending ``cuts`` a row of each rank does not leave at, ``(ranks,)``."""
        ends = np.append(cuts, len(self.thresholds))
        ends[1:] -= cuts
        return np.repeat(np.arange(len(ends)), ends)


def main_alone(rows: Rows) -> Setting:
    """No early exit at all."""
    return Setting((), (), float(rows.cost.main_macs * rows.n))


def cheapest_settings(rows: Rows, losses: Losses, limit: int, exits: Sequence[int] | None) -> list[Setting]:
    """The cheapest setting for every step of the ladder up to ``limit``, and last for ``limit`` itself."""
    rankings = _rankings(rows)
    if exits is not None:
        return _of_subset(rows, rankings, losses, limit, tuple(exits))
    if _n_early(rows) > MAX_SUBSETS_OF:
        return _grown(rows, rankings, losses, limit)
    found = [_of_subset(rows, rankings, losses, limit, subset) for subset in _subsets(_n_early(rows))]
    return [_fewest_macs(at_step) for at_step in zip(*found, strict=True)]


def most_accurate_setting(
    rows: Rows, losses: Losses, max_total_macs: float, exits: Sequence[int] | None
) -> Setting | None:
    """The setting that loses fewest rows, then MACs, at no more than ``max_total_macs``; None where there is none."""
    rankings = _rankings(rows)

    def affordable(subset: tuple[int, ...]) -> tuple[float, Setting]:
        return _of_subset_within(rows, rankings, losses, max_total_macs, subset)

    if exits is not None:
        lost, setting = affordable(tuple(exits))
    elif _n_early(rows) <= MAX_SUBSETS_OF:
        lost, setting = min(map(affordable, _subsets(_n_early(rows))), key=_fewest_lost)
    else:
        lost, setting = affordable(())
        while True:
            absent = [k for k in range(_n_early(rows)) if k not in setting.exits]
            larger = (affordable(tuple(sorted((*setting.exits, k)))) for k in absent)
            grown = min(larger, key=_fewest_lost, default=(lost, setting))
            if _fewest_lost(grown) >= _fewest_lost((lost, setting)):
                break
            lost, setting = grown
    return setting if lost < math.inf else None


def _n_early(rows: Rows) -> int:
    return len(rows.confidences) - 1


def _subsets(n_early: int) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(range(n_early), size) for size in range(n_early + 1))


def _grown(rows: Rows, rankings: "_Rankings", losses: Losses, limit: int) -> list[Setting]:
    """Keep one more early exit at a time, the one that saves most at ``limit``, until none saves anything."""
    best = _of_subset(rows, rankings, losses, limit, ())
    while True:
        absent = [k for k in range(_n_early(rows)) if k not in best[-1].exits]
        larger = [_of_subset(rows, rankings, losses, limit, tuple(sorted((*best[-1].exits, k)))) for k in absent]
        grown = min(larger, key=lambda settings: settings[-1].total_macs, default=best)
        if grown[-1].total_macs >= best[-1].total_macs:
            return best
        best = [_fewest_macs(at_step) for at_step in zip(best, grown, strict=True)]


def _fewest_lost(found: tuple[float, Setting]) -> tuple[float, float, int, tuple[int, ...]]:
    lost, setting = found
    return lost, setting.total_macs, len(setting.exits), setting.exits


def _fewest_macs(settings: Sequence[Setting]) -> Setting:
    return min(settings, key=lambda s: (s.total_macs, len(s.exits), s.exits))


class _Frontier:
    """The most MACs saved for every number of lost rows up to ``limit``, and by which cuts.

    Fewer rows lost than ``floor`` count as that many: where lost rows are budgeted, a gain is worth nothing.
    """

    def __init__(self, n_exits: int, limit: int, floor: int = 0) -> None:
        self.floor = floor
        self.saved: Floats = np.where(np.arange(floor, limit + 1) < 0, -np.inf, 0.0)
        self.cuts: Ints = np.zeros((len(self.saved), n_exits), dtype=np.int64)  # nobody leaves early: nothing lost

    def best(self, limit: int) -> tuple[float, Ints]:
        """MACs saved and cuts, ``(exits,)``, with at most ``limit`` rows lost."""
        at = int(np.argmax(self.saved[: limit - self.floor + 1]))
        return float(self.saved[at]), self.cuts[at]

    def fewest_lost(self, wanted: float) -> int | None:
        """The fewest rows lost where no less than ``wanted`` MACs are saved; None where nothing saves as much."""
        enough = np.flatnonzero(self.saved >= wanted)
        return int(enough[0]) + self.floor if len(enough) else None

    def add(self, saved: Floats, lost: Ints, levels: Sequence[Ints]) -> None:
        """Take over what is better in a table of all combinations of ``levels``."""
        above_floor = np.maximum(lost - self.floor, 0).ravel()
        cells = np.flatnonzero(above_floor < len(self.saved))
        lost, saved = above_floor[cells], saved.ravel()[cells]
        best = self.saved.copy()
        np.maximum.at(best, lost, saved)
        winners = (saved == best[lost]) & (saved > self.saved[lost])
        at = np.unravel_index(cells[winners], [len(cuts) for cuts in levels])
        self.cuts[lost[winners]] = np.stack([cuts[i] for cuts, i in zip(levels, at, strict=True)], axis=1)
        self.saved = best


@dataclass(frozen=True)
class _Cascade:
    """The kept early exits as the search sees them, shallow first."""

    rankings: tuple[_Ranking, ...]
    losses: Losses
    """``(exits, N)``."""
    savings: tuple[int, ...]
    """MACs that a row saves by leaving at each exit."""


def _of_subset(rows: Rows, rankings: "_Rankings", losses: Losses, limit: int, exits: tuple[int, ...]) -> list[Setting]:
    """The cheapest setting of these exits for every step of the ladder below ``limit``, and last for ``limit``."""
    steps = [*(step for step in _ladder(limit) if step < limit), limit]
    if not exits:
        return [main_alone(rows)] * len(steps)
    parts = _cascade(rows, rankings, losses, exits)
    frontier = _search(parts, limit)
    return [_setting(rows, parts, exits, *frontier.best(step)) for step in steps]


def _of_subset_within(
    rows: Rows, rankings: "_Rankings", losses: Losses, max_total_macs: float, exits: tuple[int, ...]
) -> tuple[float, Setting]:
    """The setting of these exits that loses fewest rows, and how many; if all are too dear, the cheapest and inf."""
    if not exits:
        alone = main_alone(rows)
        return 0 if alone.total_macs <= max_total_macs else math.inf, alone
    parts = _cascade(rows, rankings, losses, exits)
    wanted = rows.cost.exit_macs(exits)[-1] * rows.n - max_total_macs
    frontier = _search_saving(parts, wanted)
    lost = frontier.fewest_lost(wanted)
    best = frontier.best(frontier.floor + len(frontier.saved) - 1 if lost is None else lost)
    return math.inf if lost is None else lost, _setting(rows, parts, exits, *best)


def _cascade(rows: Rows, rankings: "_Rankings", losses: Losses, exits: tuple[int, ...]) -> _Cascade:
    *at_exits, at_main = rows.cost.exit_macs(exits)
    return _Cascade(rankings(exits), losses[list(exits)], tuple(at_main - macs for macs in at_exits))


def _setting(rows: Rows, parts: _Cascade, exits: tuple[int, ...], saved: float, cuts: Ints) -> Setting:
    thresholds = tuple(ranking.thresholds[cut] for ranking, cut in zip(parts.rankings, cuts, strict=True))
    return Setting(exits, thresholds, rows.cost.exit_macs(exits)[-1] * rows.n - saved)


def _search_saving(parts: _Cascade, wanted: float) -> _Frontier:
    """Cuts for every number of lost rows, gains included, good where ``wanted`` MACs are just saved; as `_search`."""
    cuts = _worthwhile_cuts(parts)
    losable, gainable = (int(np.count_nonzero((sign * parts.losses > 0).any(axis=0))) for sign in (1, -1))
    frontier = _Frontier(len(cuts), losable, -gainable)
    if math.prod(map(len, cuts)) <= EXACT_CELLS:
        frontier.add(*_tables(parts, cuts), cuts)
        return frontier
    grid = [_spread(of_exit, int(GRID_CELLS ** (1 / len(cuts)))) for of_exit in cuts]
    frontier.add(*_tables(parts, grid), grid)
    tried: set[tuple[int, ...]] = set()
    lost, before = frontier.fewest_lost(wanted), None
    while lost is not None and lost != before:
        _move_pairs(frontier, parts, cuts, lost, tried)
        lost, before = frontier.fewest_lost(wanted), lost
    return frontier


def _search(parts: _Cascade, limit: int) -> _Frontier:
    """Cuts for every number of lost rows up to ``limit``: all of them tried where they are few, else near the best.

    What is tried for a smaller ``limit`` is tried for a larger one too: that makes the cost fall with the budget.
    """
    cuts = _worthwhile_cuts(parts)
    steps = list(_ladder(limit))
    frontier = _Frontier(len(cuts), steps[-1])
    if math.prod(map(len, cuts)) <= EXACT_CELLS:
        frontier.add(*_tables(parts, cuts), cuts)
        return frontier
    grid = [_spread(of_exit, int(GRID_CELLS ** (1 / len(cuts)))) for of_exit in cuts]
    frontier.add(*_tables(parts, grid), grid)
    tried: set[tuple[int, ...]] = set()
    for step in steps:
        _move_pairs(frontier, parts, cuts, step, tried)
    return frontier


def _move_pairs(
    frontier: _Frontier, parts: _Cascade, cuts: Sequence[Ints], limit: int, tried: set[tuple[int, ...]]
) -> None:
    """Move the cuts of two exits at a time, the others held, from the best with at most ``limit`` rows lost.

    Moves that were ``tried`` from the same cuts have nothing to add; they are left out, and new ones noted.
    """
    for _ in range(MAX_ROUNDS):
        before, _cuts = frontier.best(limit)
        for pair in combinations(range(len(cuts)), 2):
            current = frontier.best(limit)[1]
            if (move := (*pair, *current.tolist())) in tried:
                continue
            tried.add(move)
            first, second = (_around(cuts[k], current[k]) for k in pair)
            levels = [current[k : k + 1] for k in range(len(cuts))]
            levels[pair[0]], levels[pair[1]] = first, second
            frontier.add(*_pair_tables(parts, current, pair, (first, second)), levels)
        if frontier.best(limit)[0] == before:
            return


def _ladder(limit: int) -> Iterator[int]:
    """0, 1, 2, .. in growing steps up to the first that is at least ``limit``, the same for every ``limit``."""
    step = 0
    while step < limit:
        yield step
        step = max(step + 1, step * 3 // 2)
    yield step


def _spread(cuts: Ints, count: int) -> Ints:
    """About ``count`` of the cuts, spread over all, the first and the last among them."""
    return cuts[np.unique(np.linspace(0, len(cuts) - 1, max(count, 2)).astype(np.int64))]


def _around(cuts: Ints, current: int) -> Ints:
    """The cuts near ``current``, and some spread over all."""
    at = int(np.searchsorted(cuts, current))
    return np.union1d(cuts[max(0, at - NEAR) : at + NEAR + 1], _spread(cuts, FAR))


def _worthwhile_cuts(parts: _Cascade) -> list[Ints]:
    """The cuts of every exit that can be best, whatever the others are.

    Letting a row leave saves MACs, and loses nothing where no later exit does better on that row. So a best cut
    stands right before a row that some later exit does better on, or after all rows.
    """
    cuts = []
    best_later = np.zeros(parts.losses.shape[1], dtype=np.int8)  # main loses nothing against itself
    for ranking, losses in zip(reversed(parts.rankings), parts.losses[::-1], strict=True):
        ends = [0, len(ranking.thresholds) - 1]
        cuts.append(np.union1d(ends, ranking.rank[losses > best_later]))
        best_later = np.minimum(best_later, losses)
    return cuts[::-1]


def _tables(parts: _Cascade, levels: Sequence[Ints]) -> tuple[Floats, Ints]:
    """MACs saved and rows lost by every combination of the cuts in ``levels``, ``(len(levels[0]), ..)`` each.

    The rows are counted by the interval of levels that their rank falls in, once per exit; running sums over these
    counts then give every combination.
    """
    saved, lost = np.zeros(()), np.zeros(())
    cell, shape = np.zeros(parts.losses.shape[1], dtype=np.int64), [1]  # where each row is counted; axis 0 is nothing
    for ranking, losses, saving, cuts in zip(parts.rankings, parts.losses, parts.savings, levels, strict=True):
        cell = (
            cell * (len(cuts) + 1) + ranking.intervals(cuts)[ranking.rank]
        )  # a row leaves at the levels from its interval on
        shape = [*shape, len(cuts) + 1]
        saved = np.add(saved[..., None], saving * _running(_histogram(cell, None, shape)))
        lost = np.add(lost[..., None], _running(_histogram(cell, losses, shape)))
    return saved, lost.astype(np.int64)


def _pair_tables(
    parts: _Cascade, current: Ints, pair: tuple[int, int], levels: tuple[Ints, Ints]
) -> tuple[Floats, Ints]:
    """`_tables` where only two exits have several levels and the others keep their ``current`` cut.

    Each row then has one exit, or main, where it leaves unless one of the two takes it before. So all combinations
    follow from what all rows do by themselves, what the first exit changes, and what the second changes in the rows
    that stay at the first.
    """
    intervals = [parts.rankings[k].intervals(cuts) for k, cuts in zip(pair, levels, strict=True)]
    sizes = [len(cuts) + 1 for cuts in levels]
    savings = np.array([*parts.savings, 0], dtype=np.float64)  # at main, nothing
    more_saved = [np.where(np.arange(len(savings)) > k, savings[k] - savings, 0) for k in pair]  # the rest is gone
    saved = lost = 0.0
    saved_by, lost_by = ([np.zeros(sizes[0]), np.zeros(sizes[0] * sizes[1])] for _ in range(2))
    for rows in (slice(start, start + BLOCK) for start in range(0, parts.losses.shape[1], BLOCK)):
        leaves_at, own_losses = _of_the_others(parts, current, pair, rows)
        at = leaves_at.astype(np.int64)
        saved += savings.take(at).sum()
        lost += own_losses.sum()
        cell = np.zeros_like(at)  # where each row is counted
        for axis, k in enumerate(pair):
            cell = cell * sizes[axis] + intervals[axis].take(parts.rankings[k].rank[rows])
            more_lost = (parts.losses[k, rows] - own_losses) * (leaves_at > k)
            saved_by[axis] += np.bincount(cell, more_saved[axis].take(at), len(saved_by[axis]))
            lost_by[axis] += np.bincount(cell, more_lost, len(lost_by[axis]))
    saved_by_pair = saved + _running(saved_by[0])[:, None] + _running(saved_by[1].reshape(sizes))
    lost_by_pair = lost + _running(lost_by[0])[:, None] + _running(lost_by[1].reshape(sizes))
    shape = [len(levels[pair.index(k)]) if k in pair else 1 for k in range(len(current))]
    return saved_by_pair.reshape(shape), lost_by_pair.reshape(shape).astype(np.int64)


def _of_the_others(
    parts: _Cascade, current: Ints, pair: tuple[int, int], rows: slice
) -> tuple[npt.NDArray[np.int8], Losses]:
    """Where each of the ``rows`` leaves, and what that loses, if none leaves at the exits of ``pair``."""
    n_exits = len(parts.rankings)
    losses = np.zeros_like(parts.losses[0, rows])
    leaves_at = np.full_like(losses, n_exits)  # main
    for k in reversed(range(n_exits)):
        if k not in pair:
            leaves = (parts.rankings[k].rank[rows] < current[k]).view(np.int8)
            leaves_at += (np.int8(k) - leaves_at) * leaves  # 20 times as fast as assigning where a mask is set
            losses += (parts.losses[k, rows] - losses) * leaves
    return leaves_at, losses


def _histogram(cell: Ints, weights: npt.NDArray[np.generic] | None, shape: Sequence[int]) -> Floats:
    """How many rows each cell of ``shape[1:]`` has, or their summed weights."""
    return np.asarray(np.bincount(cell, weights, math.prod(shape)), dtype=np.float64).reshape(shape[1:])


def _running(counts: Floats) -> Floats:
    """Counts of rows that leave at the last axis and stay at those before."""
    for axis in range(counts.ndim):
        sums = np.cumsum(counts, axis=axis)
        before = (slice(None),) * axis
        leaving = sums[(*before, slice(-1))]
        counts = leaving if axis == counts.ndim - 1 else sums[(*before, slice(-1, None))] - leaving
    return counts


_Rankings = Callable[[tuple[int, ...]], tuple[_Ranking, ...]]
"""Of a choice of exits; where the class before counts, the choice decides what an exit says."""


def _rankings(rows: Rows) -> _Rankings:
    """Ranks every exit when it is first asked for, once, or once after each exit that may stand before it."""

    @cache
    def after(before: int | None, exit_index: int) -> _Ranking:
        return _ranking(rows.scores((exit_index,) if before is None else (before, exit_index))[-1])

    def of(exits: tuple[int, ...]) -> tuple[_Ranking, ...]:
        before = (None, *exits) if rows.classes is not None else (None,) * len(exits)
        return tuple(after(*pair) for pair in zip(before, exits, strict=False))

    return of


def _ranking(confidences: npt.NDArray[np.float32]) -> _Ranking:
    """Rank of every row ``(N,)``, and the threshold of every cut."""
    order = np.argsort(-confidences)  # NaN comes last
    n_ranked = int(np.count_nonzero(~np.isnan(confidences)))
    descending = confidences[order[:n_ranked]].astype(np.float64)
    firsts = np.flatnonzero(descending[:-1] - descending[1:] >= MIN_GAP) + 1  # of every rank but 0
    rank = np.zeros(len(confidences), dtype=np.int64)
    rank[order[firsts]] = 1
    rank[order] = np.cumsum(rank[order])
    rank[order[n_ranked:]] = len(firsts) + 1
    midway = ((descending[firsts - 1] + descending[firsts]) / 2).astype(np.float32)
    return _Ranking(rank, (NEVER, *midway.tolist(), 0.0))
