"""The pictures of the paper's figures, and the data in them."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcprune.paper import measures, plots, rows
from lcprune.paper.rows import Outcomes
from lcprune.paper.tables import NAMES
from lcprune.pipeline.curves import read_curves

Rows = Sequence[Mapping[str, Any]]
Files = dict[str, bytes]
"""Contents by name."""


def draw(name: str, datasets: Sequence[str], outcomes: Outcomes, shown: Rows) -> Files:
    """The files of a figure; none for a table. Curves and matrices are of the first seed that is finished."""
    return PICTURES[name](datasets, outcomes, shown) if name in PICTURES else {}


def _figure3(datasets: Sequence[str], outcomes: Outcomes, _: Rows) -> Files:
    folders = {NAMES[dataset]: _first(outcomes, dataset, "lc_3") for dataset in datasets}
    found = {title: read_curves(folder) for title, folder in folders.items() if folder}
    content = {
        title: {"exits": curves.exit_names, "steps": curves.steps.tolist(), "losses": curves.losses.tolist()}
        for title, curves in found.items()
    }
    return {"figure3.png": plots.loss_curves(found) if found else _failed(), **_data("figure3", content)}


def _figure4(datasets: Sequence[str], _: Outcomes, shown: Rows) -> Files:
    panels = {
        NAMES[dataset]: [row for row in shown if row["dataset"] == dataset and row["mean"] is not None]
        for dataset in datasets
    }
    picture = plots.ensemble_marks(panels) if any(panels.values()) else _failed()
    kept = ("name", "dataset", "mean", "std", "paper_mean", "paper_std")
    return {"figure4.png": picture, **_data("figure4", [{key: row[key] for key in kept} for row in shown])}


def _figure5(datasets: Sequence[str], outcomes: Outcomes, shown: Rows) -> Files:
    folders = {row["name"]: _first(outcomes, datasets[0], row["name"]) for row in shown}
    found = {name: rows.dissimilarities(folder) for name, folder in folders.items() if folder}
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
    return {
        "figure5.png": plots.dissimilarity_grid(found) if found else _failed(),
        **_data("figure5", content),
        "figure5-matrices.npz": matrices.getvalue(),
    }


def _figure6(datasets: Sequence[str], outcomes: Outcomes, _: Rows) -> Files:
    folder = _first(outcomes, datasets[0], "lc_3")
    if folder is None:
        return {"figure6-by-label.png": _failed()}
    found = rows.loss_evolution(folder)
    content = {
        "exits": found.exit_names,
        "steps": found.steps.tolist(),
        "labels": found.labels.tolist(),
        "losses": [[[round(float(loss), 4) for loss in of_exit] for of_exit in step] for step in found.losses],
        "correlations_with_main": measures.correlations(found).round(4).tolist(),
    }
    return {
        "figure6-by-label.png": plots.loss_evolution(found, "label"),
        "figure6-by-final-loss.png": plots.loss_evolution(found, "final_loss"),
        **_data("figure6", content),
    }


def _figure7(datasets: Sequence[str], outcomes: Outcomes, _: Rows) -> Files:
    folders = {name: _first(outcomes, datasets[0], name) for name in ("bp_sub_1", "bp_sub_2", "bp_sub_3", "lc_3")}
    found = {name: read_curves(folder) for name, folder in folders.items() if folder}
    if len(found) < len(folders):
        return {"figure7.png": _failed()}
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
    return {"figure7.png": plots.learning_curves(alone, joint), **_data("figure7", content)}


PICTURES: dict[str, Callable[[Sequence[str], Outcomes, Rows], Files]] = {
    "figure3": _figure3,
    "figure4": _figure4,
    "figure5": _figure5,
    "figure6": _figure6,
    "figure7": _figure7,
}


def _first(outcomes: Outcomes, dataset: str, run: str) -> Path | None:
    """The run folder of the first seed that is finished."""
    return next((outcome.folder for outcome in outcomes[dataset, run] if not outcome.failed), None)


def _failed() -> bytes:
    return plots.no_data("a run that this shows has failed")


def _data(name: str, content: Any) -> Files:
    return {f"{name}-data.json": (json.dumps(content) + "\n").encode()}
