from dataclasses import asdict, replace

import numpy as np
import pytest

from lcprune.analysis.cost import ExitCost
from lcprune.analysis.intervals import paired_drop_upper_pct, score_upper
from lcprune.analysis.select import Budget, Candidate, candidates_from, choose, refusal
from lcprune.errors import BudgetError, LcpruneError

COSTS = (
    ExitCost("sub-model 1", 0, macs=1_000, params=900, size_bytes=40, latency_ms=3.0),
    ExitCost("sub-model 2", 1, macs=2_000, params=500, size_bytes=20, latency_ms=1.0),
    ExitCost("main", 2, macs=4_000, params=800, size_bytes=30, latency_ms=2.0),
)


def predictions(n: int, *n_correct: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``(K, n, 2)`` whose k-th exit has the first ``n_correct[k]`` of ``n`` rows right, and the labels."""
    right = np.arange(n) < np.array(n_correct)[:, None]
    return np.stack([right, ~right], axis=-1).astype(np.float32), np.zeros(n, dtype=np.int64)


def candidates(*n_correct: int, n: int = 1000, confidence: float | None = None) -> tuple[Candidate, ...]:
    return candidates_from(COSTS, predictions(n, *n_correct), confidence=confidence)


def test_candidates_hold_the_keys_of_the_contract() -> None:
    found = candidates_from(COSTS, predictions(100, 80, 88, 90), predictions(50, 30, 40, 41))
    assert asdict(found[0]) == {
        "name": "sub-model 1",
        "exit_index": 0,
        "macs": 1_000,
        "params": 900,
        "size_bytes": 40,
        "latency_ms": 3.0,
        "image_size": None,
        "val_accuracy_pct": 80.0,
        "test_accuracy_pct": 60.0,
        "drop_pct": 10.0,
        "expected_drop_pct": 10.0,
        "expected_drop_se_pct": pytest.approx(3.0),
        "drop_upper_pct": None,
        "macs_ratio": 0.25,
    }
    assert [(c.name, c.drop_pct) for c in found] == [("sub-model 1", 10.0), ("sub-model 2", 2.0), ("main", 0.0)]


def test_the_test_split_decides_only_when_told() -> None:
    val, test = predictions(100, 80, 88, 90), predictions(50, 30, 40, 41)
    assert candidates_from(COSTS, val, test, decides="test")[0].drop_pct == 22.0
    without_val = candidates_from(COSTS, None, test, decides="test")
    assert (without_val[0].val_accuracy_pct, without_val[0].test_accuracy_pct) == (None, 60.0)
    assert candidates_from(COSTS, val)[0].test_accuracy_pct is None
    with pytest.raises(ValueError, match="3 costs and val"):
        candidates_from(COSTS, None, test)


def test_costs_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="2 costs"):
        candidates_from(COSTS[:2], predictions(10, 1, 2, 3))


def test_the_fewest_macs_within_the_drop_are_chosen() -> None:
    found = candidates(880, 895, 900)
    assert [choose(found, Budget(drop)).name for drop in (0, 0.49, 0.5, 1.99, 2.0)] == [
        "main",
        "main",
        "sub-model 2",
        "sub-model 2",
        "sub-model 1",
    ]


def test_exactly_met_budgets_are_met() -> None:
    found = candidates(4972, 5000, 5002, n=10_000)
    assert 100 * 5002 / 10_000 - 100 * 4972 / 10_000 > 0.3  # the trap
    for budget in (
        Budget(0.3),
        Budget(0.3, max_macs=1_000),
        Budget(0.3, max_params=900),
        Budget(0.3, max_latency_ms=3.0),
    ):
        assert choose(found, budget) == found[0]
    with_upper = candidates(880, 895, 900, confidence=0.95)
    upper = with_upper[0].drop_upper_pct
    assert upper is not None
    assert choose(with_upper, Budget(upper, confidence=0.95)) == with_upper[0]
    assert choose(with_upper, Budget(upper - 1e-5, confidence=0.95)) == with_upper[1]


@pytest.mark.parametrize(("minimize", "chosen"), [("macs", 0), ("params", 1), ("latency", 1), ("size", 1)])
def test_minimizes_what_is_asked_for(minimize: str, chosen: int) -> None:
    found = candidates(900, 900, 900)
    assert choose(found, Budget(0, minimize=minimize)) == found[chosen]


def test_ties_go_to_fewer_macs_then_params_then_the_shallower() -> None:
    one, two, main = candidates(900, 900, 900)
    same_latency = (replace(one, latency_ms=1.0), two, main)
    assert choose(same_latency, Budget(0, minimize="latency")).name == "sub-model 1"
    assert choose((replace(one, macs=2_000), two, main), Budget(0)).name == "sub-model 2"
    assert choose((main, two, replace(one, macs=2_000, params=500)), Budget(0)).name == "sub-model 1"


def test_only_the_named_sub_models_and_main_are_considered() -> None:
    found = candidates(900, 900, 900)
    assert choose(found, Budget(0, exits=("2",))).name == "sub-model 2"
    assert choose(found, Budget(0, exits=())).name == "main"
    assert refusal(found[0], Budget(0, exits=("2",))) == "not among the exits to consider"
    with pytest.raises(LcpruneError, match="no sub-model 3, 9\n  fix: name some of: 1, 2"):
        choose(found, Budget(0, exits=("1", "3", "9")))


def test_with_confidence_the_upper_end_of_the_drop_decides() -> None:
    found = candidates(880, 900, 900, confidence=0.95)
    assert found[0].drop_upper_pct == 100 * score_upper(20, 0, 1000, 0.95)
    assert found[1].drop_upper_pct == pytest.approx(0.2698, abs=1e-4)  # no row differs, and yet
    assert found[2].drop_upper_pct == 0.0
    assert choose(found, Budget(2.0)).name == "sub-model 1"
    assert choose(found, Budget(2.0, confidence=0.95)).name == "sub-model 2"
    assert choose(found, Budget(0.2, confidence=0.95)).name == "main"
    assert refusal(found[1], Budget(0.2, confidence=0.95)) == "drop 0.27 points (upper end, 95%) is over 0.20"
    with pytest.raises(ValueError, match="was made without drop_upper_pct"):
        choose(candidates(880, 895, 900), Budget(2.0, confidence=0.95))


def test_a_refusal_gives_the_figures() -> None:
    one, two, _ = candidates(869, 879, 900)
    assert refusal(one, Budget(2.0)) == "drop 3.10 points is over 2.00"
    assert refusal(two, Budget(2.0999)) == "drop 2.1000 points is over 2.0999"  # never "2.10 is over 2.10"
    assert refusal(two, Budget(2.1)) is None
    crowded = refusal(one, Budget(3.0, max_macs=999, max_params=899, max_latency_ms=2.5))
    assert crowded == (
        "drop 3.10 points is over 3.00, 1,000 MACs are over 999, 900 parameters are over 899, "
        "latency 3.00 ms is over 2.50"
    )


def test_when_nothing_fits_the_nearest_is_named_with_a_budget_that_admits_it() -> None:
    found = candidates(851, 869, 900)
    with pytest.raises(BudgetError) as caught:
        choose(found, Budget(2.0, max_macs=2_500))
    assert caught.value.exit_code == 3
    assert caught.value.problem == (
        "nothing is within the budget. The nearest is sub-model 2 (drop 3.10 points, 2,000 MACs, 500 parameters): "
        "drop 3.10 points is over 2.00"
    )
    assert caught.value.fix == "--max-drop 3.10 admits sub-model 2"
    assert choose(found, Budget(3.10, max_macs=2_500)).name == "sub-model 2"


def test_when_all_cost_too_much_the_cheapest_is_the_nearest() -> None:
    found = candidates(851, 869, 900)
    with pytest.raises(BudgetError, match="--max-drop 4.90 --max-macs 1000 admits sub-model 1"):
        choose(found, Budget(2.0, max_macs=500))
    with pytest.raises(BudgetError, match="--max-latency-ms 2.00 admits main"):
        choose(found, Budget(0.0, exits=(), max_latency_ms=0.0))


def test_what_was_not_measured_cannot_be_budgeted() -> None:
    found = tuple(replace(c, latency_ms=None, size_bytes=None) for c in candidates(900, 900, 900))
    assert choose(found, Budget(0)).name == "sub-model 1"
    for budget in (Budget(0, minimize="latency"), Budget(0, minimize="size"), Budget(0, max_latency_ms=9.0)):
        with pytest.raises(ValueError, match="was made without (latency_ms|size_bytes)"):
            choose(found, budget)


@pytest.mark.parametrize(
    "values",
    [
        {"max_drop_pct": -1.0},
        {"max_drop_pct": float("nan")},
        {"max_drop_pct": 1.0, "max_macs": -1},
        {"max_drop_pct": 1.0, "max_latency_ms": float("inf")},
        {"max_drop_pct": 1.0, "minimize": "flops"},
        {"max_drop_pct": 1.0, "confidence": 1.0},
    ],
)
def test_a_budget_out_of_range_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="limit|minimize|confidence"):
        Budget(**values)


def test_the_upper_end_of_a_drop_is_that_against_main_and_not_against_a_neighbour() -> None:
    logits, labels = predictions(1000, 880, 700, 900)
    right = logits.argmax(-1) == labels
    found = candidates_from(COSTS, (logits, labels), confidence=0.95)
    expected = paired_drop_upper_pct(right[2], right[0], 0.95)
    assert found[0].drop_upper_pct == pytest.approx(expected, abs=1e-6)
    assert expected > 2


def test_an_error_names_the_sub_models_that_there_are_and_no_other() -> None:
    with pytest.raises(LcpruneError) as error:
        choose(candidates(800, 880, 900), Budget(2.0, exits=("7",)))
    assert (error.value.problem, error.value.fix) == ("there is no sub-model 7", "name some of: 1, 2")
    with pytest.raises(LcpruneError) as error:
        choose(candidates(800, 880, 900)[-1:], Budget(2.0, exits=("1",)))
    assert error.value.fix == "name some of: none"


@pytest.mark.parametrize(
    ("drop_pct", "most", "text"),
    [
        (2.5, 2.0, "drop 2.50 points is over 2.00"),
        (2.0004, 2.0, "drop 2.0004 points is over 2.0000"),
        (2.000002, 2.0, "drop 2.000002 points is over 2.000000"),
    ],
)
def test_two_figures_that_differ_differ_in_their_text(drop_pct: float, most: float, text: str) -> None:
    assert refusal(replace(candidates(800, 880, 900)[0], drop_pct=drop_pct), Budget(most)) == text


def test_a_limit_on_parameters_is_named_with_what_would_admit_the_nearest() -> None:
    with pytest.raises(BudgetError) as error:
        choose(candidates(900, 900, 900), Budget(2.0, max_params=400))
    assert error.value.problem.endswith(
        "sub-model 2 (drop 0.00 points, 2,000 MACs, 500 parameters): 500 parameters are over 400"
    )
    assert error.value.fix == "--max-params 500 admits sub-model 2"


def test_the_lowest_confidence_is_the_drop_that_was_seen() -> None:
    found = candidates(851, 880, 900, confidence=0.5)
    assert found[0].drop_upper_pct == pytest.approx(4.9)
    assert choose(found, Budget(2.0, confidence=0.5)).name == "sub-model 2"
