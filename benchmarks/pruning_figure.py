"""Accuracy against cost of all models of the comparison: as a figure, and as who is ahead where."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.case import Row

COSTS = {"macs_ratio": "MACs for an image, to main's", "latency_ratio": "latency of an image, to main's"}
OURS = ("main", "sub-model", "progressive")
STYLES = {"progressive": ("#0b6e4f", "o"), "sub-model": ("#5aa9e6", "s"), "torch-pruning": ("#d1495b", "^")}
LABELS = {"progressive": "progressive model", "sub-model": "sub-model", "torch-pruning": "pruned and fine-tuned"}


def frontier(rows: Sequence[Row], cost: str) -> list[tuple[float, float]]:
    """Cost and test accuracy of the models that no cheaper one reaches, cheapest first."""
    kept: list[tuple[float, float]] = []
    for found, accuracy_pct in sorted((row[cost], -row["test_accuracy_pct"]) for row in rows):
        if not kept or -accuracy_pct > kept[-1][1]:
            kept.append((found, -accuracy_pct))
    return kept


def standing(rows: Sequence[Row]) -> list[Row]:
    """For each pruned model, the points by which our frontier lies above it at its own MACs and latency.

    Between two of our models the frontier is a straight line, since thresholds can be set anywhere between. None where
    nothing of ours is as cheap as the pruned model.
    """
    ours = [row for row in rows if row["kind"] in OURS]
    found = []
    for row in rows:
        if row["kind"] != "torch-pruning":
            continue
        ahead = {f"ahead_at_{cost}_pct": _ahead_pct(row, frontier(ours, cost), cost) for cost in COSTS}
        found.append({"name": row["name"], **ahead})
    return found


def _ahead_pct(row: Row, ours: Sequence[tuple[float, float]], cost: str) -> float | None:
    costs, accuracies_pct = zip(*ours, strict=True)
    if row[cost] < costs[0]:
        return None
    return float(np.interp(row[cost], costs, accuracies_pct)) - float(row["test_accuracy_pct"])


def draw(rows: Sequence[Row], path: Path) -> None:
    """Writes the figure as SVG: one panel for each cost."""
    # Text as text, for a small file; a fixed salt, so that the same rows give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "lcprune", "font.size": 9.0}):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        panels = figure.subplots(1, len(COSTS), sharey=True)
        for panel, (cost, label) in zip(panels, COSTS.items(), strict=True):
            _panel(panel, rows, cost)
            panel.set_xlabel(label)
        panels[0].set_ylabel("test accuracy, %")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(panel: Axes, rows: Sequence[Row], cost: str) -> None:
    main = next(row for row in rows if row["kind"] == "main")
    panel.axhline(main["test_accuracy_pct"], color="0.75", linewidth=0.8, zorder=0)
    panel.plot([main[cost]], [main["test_accuracy_pct"]], "k*", markersize=9, label="main")
    for kind, (colour, marker) in STYLES.items():
        of_kind = sorted((row for row in rows if row["kind"] == kind), key=lambda row: float(row[cost]))
        if not of_kind:
            continue
        label = f"{LABELS[kind]}: {_seconds([row['time_to_model_s'] for row in of_kind])} each"
        for index, round_to in enumerate(sorted({row.get("round_to", 1) for row in of_kind})):
            alike = [row for row in of_kind if row.get("round_to", 1) == round_to]
            places = [row[cost] for row in alike], [row["test_accuracy_pct"] for row in alike]
            name = label if round_to == 1 else f"{label}, channels by {round_to}"
            filled = "full" if index == 0 else "none"
            look: dict[str, Any] = {"color": colour, "marker": marker, "fillstyle": filled, "label": name}
            panel.plot(*places, linestyle="-" if index == 0 else "--", linewidth=1, markersize=5, **look)
    panel.set_xlim(left=0)
    panel.grid(color="0.93")
    panel.spines[["top", "right"]].set_visible(False)


def _seconds(values: Sequence[float]) -> str:
    median = float(np.median(values))
    return f"{median:.1f} s" if median < 10 else f"{median:.0f} s"
