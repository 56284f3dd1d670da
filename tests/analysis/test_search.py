"""The tables that the search for thresholds reads, held against counting row by row."""

from itertools import combinations, product

import numpy as np
import pytest

from lcprune.analysis import search
from lcprune.analysis.criterion import agreeing
from lcprune.analysis.evaluate import CascadeCost

SAVINGS = (70, 50, 20, 9)


def cascade_of(n: int, seed: int = 0) -> search._Cascade:
    """Four early exits with made-up confidences, some of them equal or NaN, and losses."""
    rng = np.random.default_rng(seed)
    confidences = np.round(rng.random((4, n)), 2).astype(np.float32)
    confidences[0, :2] = np.nan
    losses = rng.choice([-1, 0, 1], (4, n), p=[0.1, 0.6, 0.3]).astype(np.int8)
    return search._Cascade(tuple(search._ranking(of_exit) for of_exit in confidences), losses, SAVINGS)


def levels_of(parts: search._Cascade, count: int, seed: int = 0) -> list[np.ndarray]:
    """Some cuts of every exit, nobody and everybody among them."""
    rng = np.random.default_rng(seed)
    cuts = []
    for ranking in parts.rankings:
        last = len(ranking.thresholds) - 1
        cuts.append(np.union1d([0, last], rng.integers(1, last, count)))
    return cuts


def counted(parts: search._Cascade, cuts: tuple[int, ...]) -> tuple[int, int]:
    """MACs saved and rows lost, row by row."""
    saved = lost = 0
    for row in range(parts.losses.shape[1]):
        for ranking, losses, saving, cut in zip(parts.rankings, parts.losses, parts.savings, cuts, strict=True):
            if ranking.rank[row] < cut:
                saved, lost = saved + saving, lost + int(losses[row])
                break
    return saved, lost


def test_tables_are_what_counting_gives() -> None:
    parts = cascade_of(40)
    levels = levels_of(parts, 2)
    saved, lost = search._tables(parts, levels)
    expected = np.array([counted(parts, cuts) for cuts in product(*levels)]).reshape(*saved.shape, 2)
    np.testing.assert_array_equal(saved, expected[..., 0])
    np.testing.assert_array_equal(lost, expected[..., 1])


@pytest.mark.parametrize("block", [1 << 13, 17])
@pytest.mark.parametrize("pair", list(combinations(range(4), 2)))
def test_the_tables_of_a_pair_are_a_part_of_all_tables(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[int, int], block: int
) -> None:
    monkeypatch.setattr(search, "BLOCK", block)
    parts = cascade_of(200, seed=1)
    levels = levels_of(parts, 6, seed=1)
    at = [len(cuts) // 2 for cuts in levels]
    current = np.array([cuts[i] for cuts, i in zip(levels, at, strict=True)])
    saved, lost = search._pair_tables(parts, current, pair, (levels[pair[0]], levels[pair[1]]))
    held = tuple(slice(None) if k in pair else slice(i, i + 1) for k, i in enumerate(at))
    all_saved, all_lost = search._tables(parts, levels)
    np.testing.assert_array_equal(saved, all_saved[held])
    np.testing.assert_array_equal(lost, all_lost[held])
    assert len(np.unique(saved)) > 10


def test_intervals_count_the_cuts_that_a_rank_does_not_leave_at() -> None:
    ranking = cascade_of(300).rankings[0]
    last = len(ranking.thresholds) - 1
    for cuts in ([0, last], [0, 3, 4, last], [3], [last]):
        expected = [sum(cut <= rank for cut in cuts) for rank in range(last + 1)]
        assert ranking.intervals(np.array(cuts)).tolist() == expected


def test_no_move_is_tried_twice_from_the_same_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    moves = []
    tables = search._pair_tables

    def noted(
        parts: search._Cascade, current: np.ndarray, pair: tuple[int, int], levels: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        moves.append((pair, *current.tolist()))
        return tables(parts, current, pair, levels)

    monkeypatch.setattr(search, "_pair_tables", noted)
    monkeypatch.setattr(search, "EXACT_CELLS", 0)
    search._search(cascade_of(300), 20)
    assert len(moves) == len(set(moves)) > 6


def test_the_frontier_knows_the_fewest_rows_lost_for_a_saving() -> None:
    """Cuts (saved, lost): (0, 0), (5, -2), (7, -2), (20, 1) and (30, 1), with two rows to gain and one to lose."""
    frontier = search._Frontier(1, 1, -2)
    table = np.array([0.0, 5.0, 7.0, 20.0, 30.0]), np.array([0, -2, -2, 1, 1])
    frontier.add(*table, [np.arange(5)])
    wanted = {-3.0: -2, 7.0: -2, 7.5: 1, 30.0: 1, 30.5: None}
    assert {saved: frontier.fewest_lost(saved) for saved in wanted} == wanted
    assert [(saved, cuts.tolist()) for saved, cuts in map(frontier.best, (-2, 0, 1))] == [
        (7.0, [2]),
        (7.0, [2]),
        (30.0, [4]),
    ]


def test_where_losses_are_budgeted_a_gain_counts_as_nothing_lost() -> None:
    frontier = search._Frontier(1, 2)
    frontier.add(np.array([4.0, 6.0, 9.0]), np.array([-3, 2, 3]), [np.arange(3)])
    assert frontier.saved.tolist() == [4.0, 0.0, 6.0]
    assert frontier.best(1)[0] == 4.0


@pytest.mark.parametrize("with_classes", [False, True])
def test_an_exit_is_ranked_once_for_each_exit_that_may_stand_before_it(
    monkeypatch: pytest.MonkeyPatch, with_classes: bool
) -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, (4, 50))
    cost = CascadeCost((1, 1, 1, 1), (1, 1, 1))
    confidences = rng.random((4, 50), dtype=np.float32)
    rows = search.Rows(confidences, classes == 0, cost, classes if with_classes else None)
    seen: list[np.ndarray] = []
    ranking = search._ranking

    def noted(of_exit: np.ndarray) -> search._Ranking:
        seen.append(of_exit)
        return ranking(of_exit)

    monkeypatch.setattr(search, "_ranking", noted)
    rankings = search._rankings(rows)
    for exits in search._subsets(3):
        ranks = rankings(exits)
        own = confidences[list(exits)]
        scores = agreeing(own, classes[list(exits)]) if with_classes else own
        assert len(ranks) == len(exits)
        for ranked, of_exit in zip(ranks, scores, strict=True):
            np.testing.assert_array_equal(ranked.rank, ranking(of_exit).rank)
    assert len(seen) == (6 if with_classes else 3)  # 3 as the first one, and 3 pairs


def test_the_cheapest_of_a_subset_that_is_too_dear_is_still_named() -> None:
    """Exits are added one by one where there are many: from one that is too dear to others that may not be."""
    cost = CascadeCost((10, 10, 10), (5, 5))
    rows = search.Rows(np.full((3, 4), 0.5, dtype=np.float32), np.ones((3, 4), dtype=np.bool_), cost)
    lost, setting = search._of_subset_within(rows, search._rankings(rows), rows.losses(), 4 * 14.0, (0,))
    assert (lost, setting.total_macs, setting.thresholds) == (np.inf, 4 * 15.0, (0.0,))
    lost, setting = search._of_subset_within(rows, search._rankings(rows), rows.losses(), 4 * 15.0, (0,))
    assert (lost, setting.total_macs) == (0, 60.0)


def test_the_first_exits_alone_keep_their_classes_and_are_held_against_main() -> None:
    confidences = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    classes = np.arange(12).reshape(3, 4)
    correct = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=np.bool_)
    cost = CascadeCost((1, 2, 3), (4, 5))
    rows = search.Rows(confidences, correct, cost, classes).ending_at(2)
    assert rows.classes is not None
    assert rows.classes.tolist() == classes[:2].tolist()
    assert rows.main_correct.tolist() == [True, True, True, False]
    assert (rows.confidences.tolist(), rows.correct.tolist()) == (confidences[:2].tolist(), correct[:2].tolist())
    assert search.Rows(confidences, correct, cost).ending_at(2).classes is None


def test_a_spread_has_both_ends_and_is_even_between_them() -> None:
    cuts = np.arange(10, 21)
    assert search._spread(cuts, 1).tolist() == search._spread(cuts, 2).tolist() == [10, 20]
    assert search._spread(cuts, 3).tolist() == [10, 15, 20]
    assert search._spread(cuts, 100).tolist() == cuts.tolist()
    assert search._spread(cuts[:1], 5).tolist() == [10]


@pytest.mark.parametrize("at", [0, 3, 5000, 9999])
def test_around_a_cut_are_its_neighbours_on_both_sides_and_a_spread(at: int) -> None:
    cuts = 10 * np.arange(10_000)
    neighbours = range(max(0, at - search.NEAR), min(len(cuts), at + search.NEAR + 1))
    expected = {10 * k for k in neighbours} | set(search._spread(cuts, search.FAR).tolist())
    assert search._around(cuts, 10 * at).tolist() == sorted(expected)


def test_pairs_are_moved_until_no_pair_improves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_ROUNDS", 100)
    needed = []
    for seed in range(6):
        parts = cascade_of(300, seed)
        cuts, frontier = search._worthwhile_cuts(parts), search._Frontier(4, 20)
        tried: set[tuple[int, ...]] = set()
        search._move_pairs(frontier, parts, cuts, 20, tried)
        saved = frontier.best(20)[0]
        search._move_pairs(frontier, parts, cuts, 20, set())
        assert frontier.best(20)[0] == saved
        needed.append(len(tried))
    assert max(needed) > 6


@pytest.mark.parametrize("exits", [None, ()])
def test_main_alone_loses_nothing_where_it_is_just_affordable(exits: tuple[int, ...] | None) -> None:
    """The one row is lost at the early exit, which saves 85 MACs."""
    correct = np.array([[False], [True]])
    rows = search.Rows(np.full((2, 1), 0.5, dtype=np.float32), correct, CascadeCost((10, 90), (5,)))
    assert search.most_accurate_setting(rows, rows.losses(), 100.0, exits) == search.Setting((), (), 100.0)


@pytest.mark.parametrize(
    ("exits", "expected"),
    [
        (None, search.Setting((1,), (0.0,), 2 * 25.0)),
        ((0, 1), search.Setting((0, 1), (search.NEVER, 0.0), 2 * 30.0)),
        ((0,), search.Setting((0,), (0.0,), 2 * 15.0)),
    ],
)
def test_where_accuracy_is_sought_every_gain_counts(exits: tuple[int, ...] | None, expected: search.Setting) -> None:
    """Exit 1 gains both rows, exit 0, which is cheaper, gains none and loses none."""
    correct = np.array([[False, False], [True, True], [False, False]])
    rows = search.Rows(np.full((3, 2), 0.5, dtype=np.float32), correct, CascadeCost((10, 10, 80), (5, 5)))
    assert search.most_accurate_setting(rows, rows.losses(), 1000.0, exits) == expected


def test_a_smaller_budget_keeps_what_was_best_before_an_exit_was_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 1, one right and one wrong of what exit 0 leaves it, pays only where a row may be lost."""
    monkeypatch.setattr(search, "MAX_SUBSETS_OF", 1)
    confidences = np.array([[0.75, 0.75, 0.25, 0.25], [0.5] * 4, [0.5] * 4], dtype=np.float32)
    correct = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]], dtype=np.bool_)
    rows = search.Rows(confidences, correct, CascadeCost((10, 10, 80), (5, 5)))
    assert search.cheapest_settings(rows, rows.losses(), 1, None) == [
        search.Setting((0,), (0.5,), 2 * 15.0 + 2 * 105.0),
        search.Setting((0, 1), (0.5, 0.0), 2 * 15.0 + 2 * 30.0),
    ]


def test_where_nobody_leaves_nothing_is_lost_and_nothing_saved() -> None:
    frontier = search._Frontier(2, 1, -1)
    assert frontier.saved.tolist() == [-np.inf, 0, 0]
    assert frontier.fewest_lost(0.0) == 0
    saved, cuts = frontier.best(1)
    assert (saved, cuts.tolist()) == (0, [0, 0])
