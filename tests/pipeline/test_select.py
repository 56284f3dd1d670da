"""Candidates of a run: costs from its profile, accuracies from its predictions."""

import json
from pathlib import Path

import pytest

from lcprune import runs
from lcprune.analysis.select import Budget
from lcprune.pipeline.select import select


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
