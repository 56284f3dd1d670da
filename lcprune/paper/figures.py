"""The pictures of the paper's figures, and the data in them."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcprune.paper import measures, plots
from lcprune.paper import rows as reading
from lcprune.paper.rows import Outcomes
from lcprune.paper.tables import NAMES
from lcprune.pipeline import metrics
from lcprune.reporting.page.subject import Curves

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class File:
    """A picture, or its data."""

    name: str
    content: bytes


def draw(name: str, datasets: Sequence[str], outcomes: Outcomes, rows: Rows) -> list[File]:
    """The files of a figure; none for a table. Curves and matrices are of the first seed that is finished."""
    drawn = PICTURES.get(name)
    return [] if drawn is None else drawn(datasets, outcomes, rows)


def _figure3(datasets: Sequence[str], outcomes: Outcomes, _: Rows) -> list[File]:
    found = {
        NAMES[dataset]: metrics.curves(folder) for dataset in datasets if (folder := _first(outcomes, dataset, "lc_3"))
    }
    picture = plots.loss_curves(found) if found else plots.no_data(FAILED)
    return [File("figure3.png", picture), _data("figure3", {title: _losses(curves) for title, curves in found.items()})]


def _figure4(datasets: Sequence[str], _: Outcomes, rows: Rows) -> list[File]:
    panels = {
        NAMES[dataset]: [
            plots.EnsembleBar(row["name"], row["mean"], row["std"], row["paper_mean"])
            for row in rows
            if row["dataset"] == dataset and row["mean"] is not None
        ]
        for dataset in datasets
    }
    kept = ("name", "dataset", "mean", "std", "paper_mean", "paper_std")
    return [
        File("figure4.png", plots.ensemble_bars(panels) if any(panels.values()) else plots.no_data(FAILED)),
        _data("figure4", [{key: row[key] for key in kept} for row in rows]),
    ]


def _figure5(datasets: Sequence[str], outcomes: Outcomes, rows: Rows) -> list[File]:
    names = [row["name"] for row in rows]
    folders = {name: folder for name in names if (folder := _first(outcomes, datasets[0], name))}
    found = {name: reading.dissimilarities(folder) for name, folder in folders.items()}
    content = {
        name: {
            "layers": one.layers,
            "critic_after": [one.layers[place] for place in one.critic_after],
            "split": one.split,
            "labels": one.labels.tolist(),
            "contrasts": measures.contrasts(one),
        }
        for name, one in found.items()
    }
    matrices = io.BytesIO()
    halved = {name: one.matrices.astype(np.float16) for name, one in found.items()}
    np.savez_compressed(matrices, allow_pickle=False, **halved)
    return [
        File("figure5.png", plots.dissimilarity_grid(found) if found else plots.no_data(FAILED)),
        _data("figure5", content),
        File("figure5-matrices.npz", matrices.getvalue()),
    ]


def _figure6(datasets: Sequence[str], outcomes: Outcomes, _: Rows) -> list[File]:
    folder = _first(outcomes, datasets[0], "lc_3")
    if folder is None:
        return [File("figure6-by-label.png", plots.no_data(FAILED))]
    found = reading.loss_evolution(folder)
    content = {
        "exits": found.exit_names,
        "steps": found.steps.tolist(),
        "labels": found.labels.tolist(),
        "losses": [[[round(float(loss), 4) for loss in of_exit] for of_exit in step] for step in found.losses],
        "correlations_with_main": measures.correlations(found).round(4).tolist(),
    }
    return [
        File("figure6-by-label.png", plots.loss_evolution(found, "label")),
        File("figure6-by-final-loss.png", plots.loss_evolution(found, "final_loss")),
        _data("figure6", content),
    ]


def _figure7(datasets: Sequence[str], outcomes: Outcomes, _: Rows) -> list[File]:
    names = ("bp_sub_1", "bp_sub_2", "bp_sub_3", "lc_3")
    folders = [_first(outcomes, datasets[0], name) for name in names]
    found = {name: metrics.curves(folder) for name, folder in zip(names, folders, strict=True) if folder is not None}
    if len(found) < len(names):
        return [File("figure7.png", plots.no_data(FAILED))]
    *alone, joint = found.values()
    content = {
        name: {
            "exits": one.exit_names,
            "split": one.split,
            "steps": one.eval_steps.tolist(),
            "accuracies_pct": one.accuracies_pct.tolist(),
        }
        for name, one in found.items()
    }
    return [File("figure7.png", plots.learning_curves(alone, joint)), _data("figure7", content)]


PICTURES: dict[str, Callable[[Sequence[str], Outcomes, Rows], list[File]]] = {
    "figure3": _figure3,
    "figure4": _figure4,
    "figure5": _figure5,
    "figure6": _figure6,
    "figure7": _figure7,
}

FAILED = "a run that this shows has failed"


def _first(outcomes: Outcomes, dataset: str, run: str) -> Path | None:
    """The run folder of the first seed that is finished."""
    return next((outcome.folder for outcome in outcomes[dataset, run] if not outcome.failed), None)


def _losses(curves: Curves) -> dict[str, Any]:
    return {"exits": curves.exit_names, "steps": curves.steps.tolist(), "losses": curves.losses.tolist()}


def _data(name: str, content: Any) -> File:
    return File(f"{name}-data.json", (json.dumps(content) + "\n").encode())
