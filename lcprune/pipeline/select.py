"""Choosing the smallest sub-model of a run within a budget."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lcprune import runs
from lcprune.analysis.budget import images_needed
from lcprune.analysis.select import Budget, Candidate, candidates_from, choose, refusal
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
    """By name: why a candidate was refused, or not selected."""

    def as_json(self) -> dict[str, Any]:
        """As in ``selection.json``; the numbers of exits are numbers."""
        exits = self.budget.exits
        numbers = None if exits is None else [int(label) if label.isdecimal() else label for label in exits]
        return {
            "reference": asdict(self.candidates[-1]),
            "budget": asdict(self.budget) | {"exits": numbers},
            "decided_on": self.decided_on,
            "deciding_images": self.deciding_images,
            "selected": asdict(self.selected),
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }

    @property
    def remarks(self) -> list[str]:
        """Lines below the table."""
        drop_pct, error_pct = self.selected.expected_drop_pct, self.selected.expected_drop_se_pct
        needed = images_needed(self.budget.max_drop_pct, self.deciding_images * (error_pct / 100) ** 2)
        lines = [f"selected: {self.selected.name} ({self.run / runs.SELECTION})"]
        if not self.selected.is_main:
            lines.append(
                f"loses {drop_pct:.2f} points against float32's main, give or take {error_pct:.2f}, on new images"
            )
            if needed is not None and self.deciding_images < needed:
                lines.append(f"about {needed:,} deciding images would bring the uncertainty to half of the budget")
        if self.decided_on == "test":
            lines.append("the test split decided, so its accuracies are optimistic")
        if self.selected.is_main:
            lines.append("only main is within the budget: a larger --max-drop would allow a smaller network")
        return [*lines, "next: lcprune export --format onnx, or with --progressive one graph with early exits"]


def select(folder: Path, budget: Budget, *, use_test_split: bool) -> Selection:
    """Chooses, and writes ``selection.json``.

    Raises:
        BudgetError: If nothing fits; ``selection.json`` is unchanged.
        RunError: If the run is not finished.
        DataError: If there is no split to decide on.
    """
    folder, recipe = runs.open_run(folder)
    arrays = runs.read_predictions(folder)
    labels = {split: arrays[f"{split}_labels"] for split in ("val", "test")}
    decides = deciding_split(labels, use_test_split)
    timed = budget.minimize == "latency" or budget.max_latency_ms is not None
    costs = (measured_costs if timed or budget.minimize == "size" else costs_of)(folder, recipe)
    val, test = ((arrays[f"{name}_logits"], of) if len(of) else None for name, of in labels.items())
    candidates = candidates_from(costs.exits, val, test, decides, budget.confidence)
    selected = choose(candidates, budget)
    not_least = f"within the budget, but not the one with the least {budget.minimize}"
    verdicts = {c.name: refusal(c, budget) or not_least for c in candidates} | {selected.name: "selected"}
    selection = Selection(folder, budget, decides, len(labels[decides]), selected, candidates, verdicts)
    runs.write_json(folder / runs.SELECTION, selection.as_json())
    # of the costs, only latencies can change for the same predictions
    runs.record(folder, runs.SELECTION, made_from=[runs.PREDICTIONS, *([runs.PROFILE] if timed else [])])
    return selection


def deciding_split(labels: Mapping[str, np.ndarray[Any, Any]], use_test_split: bool) -> Literal["val", "test"]:
    """``val``, or ``test`` where the user asks for it.

    Args:
        labels: Of both splits.
        use_test_split: Whether the test images may decide.

    Raises:
        RunError: If that split has no images.
    """
    name: Literal["val", "test"] = "test" if use_test_split else "val"
    if len(labels[name]):
        return name
    if use_test_split:
        raise RunError(
            "this run has no test images", "train with data.val_size above 0, and leave --use-test-split out"
        )
    raise RunError(
        "this run held out no validation images (data.val_size: 0), so there is nothing to decide on",
        "train with data.val_size above 0, or let the test images decide with --use-test-split",
    )
