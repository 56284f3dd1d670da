"""The benchmark of budgets runs on a small run, and its figures are what the names say."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import budget, tables
from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.thresholds import Rows

RUN = Path(__file__).parents[1] / "fixtures" / "run_0_1_0"


def test_splits_are_disjoint_and_the_same_every_time() -> None:
    for (deciding, others), (again, _) in zip(
        budget.splits_of(50, 20, 3, 0), budget.splits_of(50, 20, 3, 0), strict=True
    ):
        assert len(deciding) == 20
        assert sorted([*deciding, *others]) == list(range(50))
        np.testing.assert_array_equal(deciding, again)


def test_perfect_judges_by_hand() -> None:
    """Three images: right at exit 0, right at main alone, and never: 15, 105 and 15 MACs."""
    correct = np.array([[True, False, False], [True, True, False]])
    rows = Rows(np.full((2, 3), 0.5, dtype=np.float32), correct, CascadeCost((10, 90), (5,)))
    found = budget.oracle(rows)
    assert (found["accuracy_pct"], found["macs_ratio"]) == pytest.approx((200 / 3, 0.45))


def test_where_nothing_is_defended_main_counts_as_no_loss() -> None:
    found = budget.summary("margin", 300, 1.0, None, [(2.0, 0.4, 0.9, 0.0), (0.0, 1.0, 0.0, 1.0)])
    assert (found["lost_pct"], found["macs_ratio"], found["refused_share"]) == (1.0, 0.7, 0.5)
    assert (found["lost_pct_where_exported"], found["macs_ratio_where_exported"]) == (2.0, 0.4)
    assert found["over_budget_share"] == 0.5


def test_a_run_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    budget.main([str(RUN), "--splits", "2", "--draws", "2", "--sizes", "100", "9999"])
    text = capsys.readouterr().out
    for key in ("sweep", "rows", "draw_rows", "select", "oracle", "machine"):
        assert f'"{key}"' in text
    assert '"deciding_images": 9999' not in text


@pytest.mark.parametrize("name", [path.name for path in tables.RESULTS.glob("budget_*.json")])
def test_the_committed_figures_keep_the_budgets(name: str) -> None:
    """On average by default; with a confidence in all but 5 % of the draws, and two binomial standard errors."""
    result = tables._read(name)
    for row in result["rows"]:
        if row["confidence"] is None:
            assert row["lost_pct"] <= row["max_drop_pct"] + 0.1, row
    for row in result["draw_rows"]:
        assert row["over_budget_share"] <= 0.05 + 2 * (0.05 * 0.95 / row["splits"]) ** 0.5, row
