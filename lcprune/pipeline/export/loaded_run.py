"""What an export reads of a run, and where it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcprune import runs
from lcprune.analysis.cost import NetworkCost
from lcprune.data import sources
from lcprune.data.sources import Dataset
from lcprune.errors import ExportError, RunError
from lcprune.exits import MAIN, exit_label, find_exit
from lcprune.models import Network
from lcprune.pipeline import stored
from lcprune.pipeline.costs import costs_of
from lcprune.pipeline.export.request import ExportRequest
from lcprune.pipeline.export.scores import ExitScores, score_logits
from lcprune.pipeline.info import RunInfo
from lcprune.recipe import Recipe
from lcprune.specs import FORMATS
from lcprune_runtime.segment_session import MANIFEST

PARITY_IMAGES = 256
UNMARKED = ("nested", "fp32", "")
"""Not in the name of a file."""


@dataclass(frozen=True)
class LoadedRun:
    """A run, with all that an export reads of it."""

    folder: Path
    recipe: Recipe
    network: Network
    info: RunInfo
    """Metadata that all its files share."""
    path: Path
    """Where the file goes."""
    costs: NetworkCost
    labels: dict[str, np.ndarray[Any, Any]]
    """Of ``val`` and ``test``."""
    classes: dict[str, np.ndarray[Any, Any]]
    """That every exit of the run gives, ``(K, N)``, of ``val`` and ``test``."""
    scores: ExitScores
    """Scores of the logits, which are too large to be kept."""
    dataset: Dataset
    """What the run was trained on."""
    parity_images: np.ndarray[Any, Any]
    """Its first validation images, or test images where none were held out, ``(N, C, H, W)`` uint8."""


def load(folder: Path, recipe: Recipe, request: ExportRequest, data_root: Path | None = None) -> LoadedRun:
    """Reads a finished run as if the last exit of the file were its last one.

    Raises:
        RunError: If the run is not finished, no images were held out for what is asked for, or a sub-model is neither
            named nor selected.
        ExportError: If there is no such exit, or no early one before it for a progressive graph, or the file cannot be
            written where it should go.
    """
    network, facts = stored.load_network(folder, recipe)
    exits = range(_last_exit(request, folder, network.exit_names))
    path = _output_path(request, folder, network.exit_names, len(exits))
    costs = costs_of(folder, recipe)
    arrays = runs.read_predictions(folder)
    labels = {split: arrays[f"{split}_labels"] for split in ("val", "test")}
    logits = {split: arrays.pop(f"{split}_logits") for split in labels}
    classes = {split: of_split.argmax(axis=2) for split, of_split in logits.items()}
    scores = score_logits(logits, labels, costs.cascade, request)
    data, folder_of_images = recipe.data, facts.images_folder(recipe.data, data_root)
    if data.has_files and data.on_bad_image == "stop":  # where damaged ones are left out, all have to be read
        data = data.model_copy(update={"stream": "always"})  # few are needed
    dataset = sources.load(data, folder_of_images, recipe.train.seed, download=False)
    compared = next(split for split in (dataset.val, dataset.test, dataset.train) if len(split))
    return LoadedRun(
        folder=folder,
        recipe=recipe,
        network=network.truncated(len(exits)),
        info=RunInfo(
            facts=facts,
            preparation=sources.preparation(recipe.data, facts.image_shape),
            recipe_sha256=runs.sha256(folder / runs.RECIPE),
            main_macs=costs.cascade.main_macs,
        ),
        path=path,
        costs=costs.kept(exits),
        labels=labels,
        classes=classes,
        scores=scores.kept(exits),
        dataset=dataset,
        parity_images=compared.images[:PARITY_IMAGES],
    )


def _last_exit(request: ExportRequest, folder: Path, names: Sequence[str]) -> int:
    """The number, from 1, of the last exit of the file: what the user names, else what was selected, or main."""
    name = request.exit_name
    if request.progressive and len(names) < 2:
        raise ExportError("this run has no critics, so there is nothing to stop at", "export it with --exit main")
    if name is None and not request.progressive:
        return _selected(folder)
    index = find_exit(name or MAIN, names)
    if index is None:
        labels = ", ".join([*(exit_label(each) for each in names[:-1]), MAIN])
        raise ExportError(f"there is no sub-model {name} in this run", f"name one of {labels}")
    if request.progressive and index == 0:
        raise ExportError(
            f"{names[0]} is the first exit, so there is nothing to stop at before it",
            "leave --progressive out, or name a later exit",
        )
    return index + 1


def _is_export(folder: Path, request: ExportRequest) -> bool:
    """Whether a folder is one that such an export writes, and may replace."""
    packaged = FORMATS[request.file_format].package is not None and folder.suffix == ".mlpackage"
    return (folder / MANIFEST).is_file() if request.is_folder else packaged


def _selected(folder: Path) -> int:
    if not (folder / runs.SELECTION).exists():
        raise RunError(
            f"nothing was selected in {folder} yet",
            "choose first with `lcprune select --max-drop 2.0`, or name one: --exit 1 .. --exit main",
        )
    selection = runs.read_json(runs.require(folder, runs.SELECTION, f"lcprune select {folder}"))
    return int(selection["selected"]["exit_index"]) + 1


def _output_path(request: ExportRequest, folder: Path, exit_names: Sequence[str], exits: int) -> Path:
    """Where the file goes, in a folder that is there.

    Raises:
        ExportError: If it is a folder itself, or the folder cannot be made.
    """
    is_main = exits == len(exit_names)
    stem = MAIN if is_main else exit_names[exits - 1].removesuffix(" px").replace(" ", "-")
    if request.progressive:
        stem = "progressive" if is_main else f"progressive-{exits}"
    marks = (request.layout, request.precision, "" if request.batch is None else "batch1")
    ending = f"-{request.file_format}" if request.is_folder else FORMATS[request.file_format].suffix
    name = "-".join([stem, *(mark for mark in marks if mark not in UNMARKED)]) + ending
    path = request.output or folder / runs.EXPORT / name
    if path.is_dir() and not _is_export(path, request):
        raise ExportError(
            f"{path} is a folder", f"name {'another' if request.is_folder else 'the file'}: --output {path / name}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{path.parent} cannot be made: {error.strerror}", "choose another --output") from None
    return path
