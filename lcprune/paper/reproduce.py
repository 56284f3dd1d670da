"""``lcprune reproduce``: what is missing is trained, then the table is computed, written and returned."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lcprune import runs
from lcprune.errors import RecipeError
from lcprune.paper import cells, figures, tables
from lcprune.paper import rows as reading
from lcprune.paper.cost import NOTE
from lcprune.paper.provenance import provenance
from lcprune.paper.scales import SCALES, Scale
from lcprune.paper.targets import TARGETS, Target
from lcprune.paper.work import Outcome, Workspace, complete, exclusive
from lcprune.pipeline.train import Display, Notice

PAPER_SEEDS = SCALES["paper"].seeds


@dataclass(frozen=True)
class Request:
    """What `lcprune reproduce` was asked for."""

    name: str
    """``table1`` .. ``table9``, ``figure3`` .. ``figure7``."""
    scale: str = "paper"
    datasets: tuple[str, ...] = ()
    """Empty: all that the paper has there."""
    seeds: int | None = None
    """How many, 0 up; None: as many as the scale says."""
    out: Path | None = None
    """Where runs and results go; None: ``reproduce/<scale>``."""
    data_root: Path = Path("data")
    device: str = "auto"
    overrides: tuple[str, ...] = ()
    """``KEY=VALUE`` each, over the recipe of every run."""


@dataclass(frozen=True)
class _Plan:
    """A request with its defaults filled in."""

    target: Target
    scale: Scale
    datasets: tuple[str, ...]
    seeds: range
    out: Path


def train_runs(request: Request, *, display: Display, notice: Notice) -> None:
    """Trains the missing runs, shared with other processes, one of which calls `reproduce`.

    Raises:
        ValueError, LcpruneError: As `reproduce`.
    """
    plan = _planned(request)
    _outcomes(plan, Workspace(plan.out, request.data_root, request.device, display, notice))


def reproduce(request: Request, *, display: Display, notice: Notice) -> dict[str, Any]:
    """A table or figure of the paper, with the paper's own figures beside; what is missing is trained first.

    Returns:
        What ``--json`` prints; the same is written to ``<out>/<name>.json``, and as text to ``<name>.md``.

    Raises:
        ValueError: If name or scale is unknown.
        LcpruneError: For what the user can fix, such as data that is missing.
    """
    plan = _planned(request)
    target, scale, datasets, seeds, out = plan.target, plan.scale, plan.datasets, plan.seeds, plan.out
    outcomes = _outcomes(plan, Workspace(out, request.data_root, request.device, display, notice))
    rows = _rows(request.name, target, datasets, outcomes)
    pictures = figures.draw(request.name, datasets, outcomes, rows)
    folders = list(dict.fromkeys(o.folder for of_run in outcomes.values() for o in of_run if not o.failed))
    differs = _differs(target, datasets, len(seeds), scale)
    result = {
        "name": request.name,
        "title": target.title,
        "scale": scale.name,
        "unit": UNITS[target.kind],
        "rows": rows,
        "tests": reading.tests(target, rows),
        "note": _note(target, scale, differs),
        "differs": differs,
        "provenance": provenance(folders, seeds if target.runs else ()),
        "figures": [picture.name for picture in pictures if picture.name.endswith(".png")],
        "files": [
            str(out / name)
            for name in (*(f"{request.name}.{kind}" for kind in ("json", "md")), *(one.name for one in pictures))
        ],
    }
    with exclusive(out / ".results.lock", wait=True):  # another process may write the same
        for picture in pictures:
            with runs.atomic_write(out / picture.name) as part:
                part.write_bytes(picture.content)
        runs.write_json(out / f"{request.name}.json", result)
        runs.write_text(out / f"{request.name}.md", tables.markdown(result))
    return result


READERS = {
    "accuracy": reading.accuracy_rows,
    "progressive": reading.progressive_rows,
    "loss_curves": reading.loss_rows,
    "dissimilarity": reading.dissimilarity_rows,
    "loss_evolution": reading.evolution_rows,
}

UNITS = {
    "accuracy": "test accuracy, %",
    "progressive": "test accuracy, %",
    "cost": "for one image",
    "loss_curves": "training loss at the end, nats",
    "dissimilarity": "mean dissimilarity between classes less that within them, output layer",
    "loss_evolution": "correlation of an image's loss with its loss at main, at the end",
}


def _planned(request: Request) -> _Plan:
    if request.name not in TARGETS or request.scale not in SCALES:
        raise ValueError(f"there is no {request.name} at scale {request.scale}")
    target = TARGETS[request.name]
    scale = replace(SCALES[request.scale], overrides=(*SCALES[request.scale].overrides, *request.overrides))
    seeds = range(request.seeds or target.seeds or scale.seeds)
    return _Plan(target, scale, _datasets(request, target, scale), seeds, request.out or Path("reproduce") / scale.name)


def _datasets(request: Request, target: Target, scale: Scale) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(request.datasets)) or _default_datasets(target, scale)
    if unknown := [dataset for dataset in chosen if dataset not in target.datasets]:
        raise RecipeError(
            f"the paper has no {request.name} of {', '.join(unknown)}",
            f"leave --dataset out, or choose from {', '.join(target.datasets)}",
        )
    return chosen


def _default_datasets(target: Target, scale: Scale) -> tuple[str, ...]:
    """All of the paper's, but one only where the same images would stand in for each of them."""
    first_of = {scale.source(dataset): dataset for dataset in reversed(target.datasets)}
    return tuple(dataset for dataset in target.datasets if dataset in first_of.values())


def _outcomes(plan: _Plan, workspace: Workspace) -> dict[tuple[str, str], list[Outcome]]:
    """By dataset and run; all seeds of the first run come before the second run."""
    cells_of = {
        (dataset, run): [cells.cell(run, dataset, seed, plan.scale) for seed in plan.seeds]
        for dataset in plan.datasets
        for run in plan.target.runs
    }
    distinct = list(dict.fromkeys(cell for of_run in cells_of.values() for cell in of_run))
    _choose_own_gpu()
    done = dict(zip(distinct, complete(distinct, workspace), strict=True))
    return {key: [done[cell] for cell in of_run] for key, of_run in cells_of.items()}


def _choose_own_gpu() -> None:
    """Gives each process that torchrun started on this machine a GPU of its own, as far as there are enough."""
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())


def _rows(
    name: str, target: Target, datasets: Sequence[str], outcomes: dict[tuple[str, str], list[Outcome]]
) -> list[dict[str, Any]]:
    if target.kind == "cost":
        return reading.cost_rows(target)
    return READERS[target.kind](name, target, datasets, outcomes)


def _note(target: Target, scale: Scale, differs: Sequence[Any]) -> str | None:
    if target.kind == "cost":
        return NOTE
    if scale.name == "paper":
        return "This is the paper's scale, except for the differences listed." if differs else None
    return (
        f"This is {scale.name} scale, not the paper's: what differs is listed. Nothing here says which method is "
        "better at the paper's scale."
    )


def _differs(target: Target, datasets: Sequence[str], seeds: int, scale: Scale) -> list[dict[str, Any]]:
    """Every setting in which these runs differ from the paper's: key, the paper's value, ours."""
    found: dict[str, tuple[Any, Any]] = {}
    for dataset in datasets:
        for run in target.runs:
            for key, values in cells.differences(run, dataset, scale).items():
                found.setdefault(f"{key} of {dataset}" if key == "data.source" else key, values)
    if target.runs and seeds != PAPER_SEEDS:
        found["seeds"] = (PAPER_SEEDS, seeds)
    return [{"key": key, "paper": theirs, "here": ours} for key, (theirs, ours) in found.items()]
