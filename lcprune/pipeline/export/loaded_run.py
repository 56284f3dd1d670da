"""What an export reads of a run, and where it writes."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lcprune import runs
from lcprune.analysis.cost import NetworkCost
from lcprune.data import sources
from lcprune.data.sources import Dataset
from lcprune.errors import ExportError
from lcprune.exporters.verify import Parity
from lcprune.models import Network
from lcprune.pipeline import stored
from lcprune.pipeline.costs import costs_of
from lcprune.pipeline.export.request import ExportRequest
from lcprune.pipeline.export.scores import ExitScores, score_logits
from lcprune.pipeline.stored import DataFacts
from lcprune.recipe import Recipe
from lcprune.specs import FORMATS

PARITY_IMAGES = 256
MAIN = "main"


@dataclass(frozen=True)
class LoadedRun:
    """A run, with all that an export reads of it."""

    folder: Path
    recipe: Recipe
    network: Network
    facts: DataFacts
    costs: NetworkCost
    labels: dict[str, np.ndarray[Any, Any]]
    """Of ``val`` and ``test``."""
    scores: ExitScores
    """What the logits say, which are too large to be kept."""
    main_macs: int
    """Of main alone, whatever the last exit is."""

    @property
    def is_whole(self) -> bool:
        """Whether the last exit is main."""
        return self.costs.exits[-1].name == MAIN

    def truncated(self, k: int) -> "LoadedRun":
        """The run as if sub-model `k`, from 1, came last: what comes after it is no part of the network."""
        return replace(
            self,
            network=self.network.truncated(k),
            costs=self.costs.truncated(k),
            scores=self.scores.truncated(k),
        )


def load(folder: Path, recipe: Recipe, request: ExportRequest) -> LoadedRun:
    """Reads a finished run.

    Raises:
        RunError: If the run is not finished, or no images were held out for what is asked for.
    """
    network, facts = stored.load_network(folder, recipe)
    costs = costs_of(folder, recipe)
    arrays = runs.read_predictions(folder)
    labels = {split: arrays[f"{split}_labels"] for split in ("val", "test")}
    logits = {split: arrays.pop(f"{split}_logits") for split in labels}
    scores = score_logits(logits, labels, costs.cascade, request)
    return LoadedRun(folder, recipe, network, facts, costs, labels, scores, costs.cascade.main_macs)


def exit_number(loaded: LoadedRun, name: str) -> int:
    """The number, from 1, of the exit that a user names ``1`` .. ``main``.

    Raises:
        ExportError: If there is none.
    """
    count = len(loaded.costs.exits)
    if name == MAIN:
        return count
    if not name.isdecimal() or not 1 <= int(name) <= count:
        names = ", ".join([*(str(k) for k in range(1, count)), MAIN])
        raise ExportError(f"there is no sub-model {name} in this run", f"name one of {names}")
    return int(name)


def load_dataset(loaded: LoadedRun) -> Dataset:
    """What the run was trained on."""
    return sources.load(loaded.recipe.data, Path(loaded.facts.data_root), loaded.recipe.train.seed, download=False)


def parity_images(dataset: Dataset) -> np.ndarray[Any, Any]:
    """The first validation images, or test images where none were held out, ``(N, C, H, W)`` uint8."""
    splits = (dataset.val, dataset.test, dataset.train)
    return next(split.images for split in splits if len(split))[:PARITY_IMAGES]


def output_path(loaded: LoadedRun, request: ExportRequest, stem: str) -> Path:
    """Where the file goes, in a folder that is there.

    Raises:
        ExportError: If it is a folder itself, or the folder cannot be made.
    """
    marks = {"flat": request.layout == "flat", request.precision: request.precision != "fp32", "batch1": request.batch}
    name = "-".join([stem, *(mark for mark, applies in marks.items() if applies)]) + FORMATS[request.file_format].suffix
    path = request.output or loaded.folder / runs.EXPORT / name
    if path.is_dir():
        raise ExportError(f"{path} is a folder", f"name the file: --output {path / name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{path.parent} cannot be made: {error.strerror}", "choose another --output") from None
    return path


def written(path: Path, kind: str, precision: str, parity: Parity) -> dict[str, Any]:
    """What every result begins with."""
    return {
        "path": str(path),
        "kind": kind,
        "precision": precision,
        "size_bytes": path.stat().st_size,
        "parity": asdict(parity),
    }
