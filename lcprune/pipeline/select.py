"""Choosing the smallest sub-model of a run within a budget."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcprune import runs
from lcprune.analysis.budget import images_needed
from lcprune.analysis.cost import NetworkCost
from lcprune.analysis.select import Budget, Candidate, Predictions, candidates_from, choose, refusal
from lcprune.errors import RunError
from lcprune.pipeline.costs import costs_of
from lcprune.pipeline.profile import measured_costs


@dataclass(frozen=True)
class Selection:
    """A choice among the sub-models of a run."""

    run: Path
    budget: Budget
    decided_on: str
    """``val`` or ``test``."""
    deciding_images: int
    selected: Candidate
    candidates: tuple[Candidate, ...]
    verdicts: dict[str, str]
    """By name: why a candidate was refused, or why it was not the one."""

    def as_json(self) -> dict[str, Any]:
        """As in ``selection.json``."""
        return {
            "reference": asdict(self.candidates[-1]),
            "budget": asdict(self.budget),
            "decided_on": self.decided_on,
            "deciding_images": self.deciding_images,
            "selected": asdict(self.selected),
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }

    @property
    def remarks(self) -> list[str]:
        """What a person should know besides the table."""
        lines = [f"selected: {self.selected.name} ({self.run / runs.SELECTION})", *self._forecast]
        if self.decided_on == "test":
            lines.append("the test set decided, so its accuracies are too good to be reported")
        if self.selected.name == "main":
            lines.append("only main is within the budget: a larger --max-drop would allow a smaller network")
        return [*lines, "next: lcprune export --format onnx, or with --progressive one graph with early exits"]

    @property
    def _forecast(self) -> list[str]:
        """What new images are expected to lose, and how many images it takes to be surer."""
        drop_pct, error_pct = self.selected.expected_drop_pct, self.selected.expected_drop_se_pct
        if self.selected.name == "main":
            return []
        lines = [f"loses {drop_pct:.2f} points against float32's main, give or take {error_pct:.2f}, on new images"]
        most_pct = self.budget.max_drop_pct
        needed = images_needed(most_pct, self.deciding_images * (error_pct / 100) ** 2)
        if needed is not None and self.deciding_images < needed:
            lines.append(f"about {needed:,} deciding images would bring the uncertainty to half of the budget")
        return lines


def select(folder: Path, budget: Budget, *, use_test_split: bool) -> Selection:
    """Chooses, and writes ``selection.json``.

    Raises:
        BudgetError: If nothing fits; ``selection.json`` is as it was.
        RunError: If the run is not finished.
        DataError: If there is no split to decide on.
    """
    folder, recipe = runs.open_run(folder)
    arrays = runs.read_predictions(folder)
    labels = {split: arrays[f"{split}_labels"] for split in ("val", "test")}
    decides = deciding_split(labels, use_test_split)
    measured = budget.max_latency_ms is not None or budget.minimize in ("latency", "size")
    costs = (measured_costs if measured else costs_of)(folder, recipe)
    candidates = make_candidates(arrays, costs, decides, budget.confidence)
    selected = choose(candidates, budget)
    verdicts = {c.name: refusal(c, budget) or _verdict(c, selected, budget) for c in candidates}
    selection = Selection(folder, budget, decides, len(labels[decides]), selected, candidates, verdicts)
    runs.write_json(folder / runs.SELECTION, selection.as_json())
    runs.record(folder, runs.SELECTION, made_from=_sources(budget))
    return selection


def _sources(budget: Budget) -> list[str]:
    """What a selection is made from; of the costs latencies alone can become others for the same predictions."""
    timed = budget.minimize == "latency" or budget.max_latency_ms is not None
    return [runs.PREDICTIONS, *([runs.PROFILE] if timed else [])]


def deciding_split(labels: Mapping[str, np.ndarray[Any, Any]], use_test_split: bool) -> str:
    """``val``, or ``test`` where the user asks for it.

    Args:
        labels: Of both splits.
        use_test_split: Whether the test images may decide.

    Raises:
        RunError: If that split has no images.
    """
    name = "test" if use_test_split else "val"
    if len(labels[name]):
        return name
    if use_test_split:
        raise RunError(
            "this run has no test images", "train with data.val_size above 0, and leave --use-test-split out"
        )
    raise RunError(
        "this run held out no validation images (data.val_size: 0), so there is nothing honest to decide on",
        "train with data.val_size above 0, or let the test images decide with --use-test-split",
    )


def make_candidates(
    arrays: dict[str, np.ndarray[Any, Any]], costs: NetworkCost, decides: str, confidence: float | None
) -> tuple[Candidate, ...]:
    """All sub-models of a run with cost and accuracy."""
    return candidates_from(
        costs.exits,
        _predictions(arrays, "val"),
        _predictions(arrays, "test"),
        decides="test" if decides == "test" else "val",
        confidence=confidence,
    )


def _predictions(arrays: dict[str, np.ndarray[Any, Any]], split: str) -> Predictions | None:
    labels = arrays[f"{split}_labels"]
    return (arrays[f"{split}_logits"], labels) if len(labels) else None


def _verdict(candidate: Candidate, selected: Candidate, budget: Budget) -> str:
    if candidate == selected:
        return "selected"
    return f"within the budget, but not the one with the least {budget.minimize}"
