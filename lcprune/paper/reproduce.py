"""``lcprune reproduce``: what is missing is trained, then the table is computed, written and returned."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lcprune import runs
from lcprune.errors import RecipeError
from lcprune.paper import figures, paper_runs, rows, tables
from lcprune.paper.cost import NOTE
from lcprune.paper.provenance import provenance
from lcprune.paper.scales import SCALES, Scale
from lcprune.paper.targets import TARGETS, UNITS, Target
from lcprune.paper.work import Outcome, Workspace, complete, exclusive
from lcprune.pipeline.train import Display, Notice

PAPER_SEEDS = SCALES["paper"].seeds


@dataclass(frozen=True)
class Request:
    """What `lcprune reproduce` was asked for.

    Raises:
        ValueError: If name or scale is unknown.
        RecipeError: If the paper has no such figures of a dataset.
    """

    name: str
    """``table1`` .. ``table9``, ``figure3`` .. ``figure7``."""
    scale: str = "paper"
    datasets: tuple[str, ...] = ()
    """Empty: all that the paper has there."""
    seeds: int | None = None
    """How many, from 0; None: as many as the scale says."""
    out: Path | None = None
    """Where runs and results go; None: ``reproduce/<scale>``."""
    data_root: Path | None = None
    device: str = "auto"
    overrides: tuple[str, ...] = ()
    """``KEY=VALUE`` each, over the recipe of every run."""

    def __post_init__(self) -> None:
        if self.name not in TARGETS or self.scale not in SCALES:
            raise ValueError(f"there is no {self.name} at scale {self.scale}")
        if unknown := [dataset for dataset in self.datasets if dataset not in self.target.datasets]:
            raise RecipeError(
                f"the paper has no {self.name} of {', '.join(unknown)}",
                f"leave --dataset out, or choose from {', '.join(self.target.datasets)}",
            )

    @property
    def target(self) -> Target:
        """The table or figure."""
        return TARGETS[self.name]

    @property
    def sized(self) -> Scale:
        """The scale with the overrides of this request."""
        scale = SCALES[self.scale]
        return replace(scale, overrides=(*scale.overrides, *self.overrides))

    @property
    def shown(self) -> tuple[str, ...]:
        """The datasets: by default all of the paper's, but one only where the same images stand in for several."""
        if self.datasets:
            return tuple(dict.fromkeys(self.datasets))
        first_of = {self.sized.source(dataset): dataset for dataset in reversed(self.target.datasets)}
        return tuple(dataset for dataset in self.target.datasets if dataset in first_of.values())

    @property
    def each_seed(self) -> range:
        """The seeds of every run."""
        return range(self.seeds or self.target.seeds or self.sized.seeds)

    @property
    def folder(self) -> Path:
        """Where runs and results go."""
        return self.out or Path("reproduce") / self.scale


def train_runs(request: Request, *, display: Display, notice: Notice) -> dict[tuple[str, str], list[Outcome]]:
    """Trains the missing runs, shared with other processes, one of which calls `reproduce`.

    Returns:
        A list over the seeds by dataset and run. All seeds of the first run are trained before the second run.

    Raises:
        LcpruneError: For what the user can fix, such as data that is missing.
    """
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():  # a GPU for each process, as far as there are enough
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    runs_of = {
        (dataset, run): [paper_runs.paper_run(run, dataset, seed, request.sized) for seed in request.each_seed]
        for dataset in request.shown
        for run in request.target.runs
    }
    distinct = list(dict.fromkeys(paper_run for of_run in runs_of.values() for paper_run in of_run))
    workspace = Workspace(request.folder, request.data_root, request.device, display, notice)
    done = dict(zip(distinct, complete(distinct, workspace), strict=True))
    return {key: [done[paper_run] for paper_run in of_run] for key, of_run in runs_of.items()}


def reproduce(request: Request, *, display: Display, notice: Notice) -> dict[str, Any]:
    """A table or figure of the paper, with the paper's own figures beside; what is missing is trained first.

    Returns:
        What ``--json`` prints; the same is written to ``<out>/<name>.json``, and as text to ``<name>.md``.

    Raises:
        LcpruneError: For what the user can fix, such as data that is missing.
    """
    name, target, out = request.name, request.target, request.folder
    outcomes = train_runs(request, display=display, notice=notice)
    shown = rows.rows_of(name, target, request.shown, outcomes)
    pictures = figures.draw(name, request.shown, outcomes, shown)
    folders = list(dict.fromkeys(o.folder for of_run in outcomes.values() for o in of_run if not o.failed))
    differs = _differs(request)
    result = {
        "name": name,
        "title": target.title,
        "scale": request.scale,
        "unit": UNITS[target.kind],
        "rows": shown,
        "tests": rows.tests(target, shown),
        "note": _note(request, differs),
        "differs": differs,
        "provenance": provenance(folders, request.each_seed if target.runs else ()),
        "figures": [picture for picture in pictures if picture.endswith(".png")],
        "files": [str(out / file) for file in (f"{name}.json", f"{name}.md", *pictures)],
    }
    with exclusive(out / ".results.lock", wait=True):  # another process may write the same
        for picture, content in pictures.items():
            with runs.atomic_write(out / picture) as part:
                part.write_bytes(content)
        runs.write_json(out / f"{name}.json", result)
        runs.write_text(out / f"{name}.md", tables.markdown(result))
    return result


def _note(request: Request, differs: Sequence[Any]) -> str | None:
    if request.target.kind == "cost":
        return NOTE
    if request.scale == "paper":
        return "This is the paper's scale, except for the differences listed." if differs else None
    return (
        f"This is {request.scale} scale, not the paper's: what differs is listed. Nothing here says which method is "
        "better at the paper's scale."
    )


def _differs(request: Request) -> list[dict[str, Any]]:
    """Every setting in which these runs differ from the paper's: key, the paper's value, ours."""
    found: dict[str, tuple[Any, Any]] = {}
    for dataset in request.shown:
        for run in request.target.runs:
            for key, values in paper_runs.differences(run, dataset, request.sized).items():
                found.setdefault(f"{key} of {dataset}" if key == "data.source" else key, values)
    if request.target.runs and len(request.each_seed) != PAPER_SEEDS:
        found["seeds"] = (PAPER_SEEDS, len(request.each_seed))
    return [{"key": key, "paper": theirs, "here": ours} for key, (theirs, ours) in found.items()]
