"""Candidates of a run: costs from its profile, accuracies from its predictions."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lcprune import runs
from lcprune.analysis.select import Budget
from lcprune.errors import BudgetError, RunError
from lcprune.pipeline.select import deciding_split, select


def test_a_candidate_has_the_costs_of_the_profile_and_the_accuracies_of_the_predictions(run: Path) -> None:
    chosen = select(run, Budget(max_drop_pct=100), use_test_split=False)
    profile = json.loads((run / runs.PROFILE).read_text())
    arrays = runs.read_predictions(run)
    for split in ("val", "test"):
        correct = (arrays[f"{split}_logits"].argmax(2) == arrays[f"{split}_labels"]).mean(1) * 100
        found = [getattr(candidate, f"{split}_accuracy_pct") for candidate in chosen.candidates]
        assert found == pytest.approx(correct, abs=1e-9)
    for candidate, row in zip(chosen.candidates, profile["exits"], strict=True):
        assert (candidate.name, candidate.exit_index) == (row["name"], row["exit_index"])
        assert (candidate.macs, candidate.params, candidate.macs_ratio) == (
            row["macs"],
            row["params"],
            row["macs_ratio"],
        )
        assert (candidate.size_bytes, candidate.latency_ms) == (row["size_bytes"], row["latency_ms"])
        main_pct = chosen.candidates[-1].val_accuracy_pct
        assert candidate.drop_pct == pytest.approx(main_pct - candidate.val_accuracy_pct, abs=1e-6)
    assert chosen.selected == chosen.candidates[0]


def test_verdicts_and_remarks(shaped_run: Callable[..., Path]) -> None:
    run = shaped_run([[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    chosen = select(run, Budget(max_drop_pct=0), use_test_split=False)
    assert chosen.verdicts == {
        "sub-model 1": "drop 75.00 points is over 0.00",
        "sub-model 2": "selected",
        "sub-model 3": "within the budget, but not the one with the least macs",
        "main": "within the budget, but not the one with the least macs",
    }
    assert chosen.remarks[0] == f"selected: sub-model 2 ({run}/selection.json)"
    assert chosen.remarks[1] == "loses 0.00 points against float32's main, give or take 0.00, on new images"
    assert len(chosen.remarks) == 3


def test_nothing_is_written_when_nothing_fits(shaped_run: Callable[..., Path]) -> None:
    run = shaped_run([[1]] * 4)
    with pytest.raises(BudgetError, match="nothing is within the budget. The nearest is sub-model 1"):
        select(run, Budget(max_drop_pct=0, max_macs=1), use_test_split=False)
    assert not (run / runs.SELECTION).exists()


def test_the_split_that_decides(shaped_run: Callable[..., Path]) -> None:
    arrays = runs.read_predictions(shaped_run([[1]] * 4, None))
    labels = {split: arrays[f"{split}_labels"] for split in ("val", "test")}
    assert deciding_split(labels, use_test_split=False) == "val"
    with pytest.raises(RunError, match="this run has no test images"):
        deciding_split(labels, use_test_split=True)
