"""Exporting a run: the selected sub-model, or one graph that stops early."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lcprune import runs
from lcprune.analysis.evaluate import ProgressiveResult, accuracy_pct, cascade, correct_rows, softmax_confidence
from lcprune.analysis.thresholds import Rows, calibrate_rows
from lcprune.data import sources
from lcprune.errors import BudgetError, ExportError, RunError
from lcprune.export.progressive import write_progressive, write_submodel
from lcprune.export.verify import Parity
from lcprune.models import Network
from lcprune.pipeline import stored
from lcprune.pipeline.info import progressive_info, submodel_info
from lcprune.pipeline.profile import Costs, costs_of
from lcprune.pipeline.select import deciding_split
from lcprune.pipeline.stored import DataFacts
from lcprune.recipe import Recipe

PARITY_IMAGES = 256
DEFAULT_MAX_DROP_PCT = 0.5
ALL_LEAVE = 0.999
"""Where more than this fraction leaves at one early exit, that sub-model alone does the same."""


@dataclass(frozen=True)
class ExportRequest:
    """What a user asks to be exported."""

    progressive: bool
    exit_name: str | None
    """``1`` .. ``main``; None takes the selection."""
    threshold: str
    """``auto``, one number for all exits, or one for each with commas between."""
    max_drop_pct: float | None
    """Budget of ``auto``; None takes the selection's."""
    confidence: float | None
    exits: tuple[int, ...] | None
    """Early exits to keep, counted from 1."""
    threshold_input: Literal["optional", "required", "none"]
    use_test_split: bool
    output: Path | None


@dataclass(frozen=True)
class _Loaded:
    """A run, with all that an export reads of it."""

    folder: Path
    recipe: Recipe
    network: Network
    facts: DataFacts
    costs: Costs
    labels: dict[str, np.ndarray[Any, Any]]
    """``val_labels`` and ``test_labels``."""
    rows: dict[str, Rows]
    """Of ``val`` and ``test``, where they have images: what the logits say, which are too large to be kept."""

    def accuracies(self, split: str) -> tuple[float, ...]:
        return tuple(accuracy_pct(of_exit) for of_exit in self.rows[split].correct) if split in self.rows else ()


def export(folder: Path, request: ExportRequest, notice: Callable[[str], None]) -> dict[str, Any]:
    """Writes the file, checked against torch, and says what it is.

    Raises:
        RunError: If the run is not finished, or nothing was selected and no exit named.
        BudgetError: If no early exit pays within the budget.
        ExportError: If the request contradicts itself, or the file differs from torch; then there is no file.
    """
    _refuse_contradictions(request)
    folder, recipe = runs.open_run(folder)
    loaded = _load(folder, recipe)
    result = _export_progressive(loaded, request, notice) if request.progressive else _export_submodel(loaded, request)
    path = Path(result["path"])
    if path.resolve().is_relative_to(folder.resolve()):
        runs.record(folder, path.resolve().relative_to(folder.resolve()).as_posix())
    return result


def _load(folder: Path, recipe: Recipe) -> _Loaded:
    network, facts = stored.load_network(folder, recipe)
    costs = costs_of(folder, recipe)
    arrays = runs.read_predictions(folder)
    labels, rows = {}, {}
    for split in ("val", "test"):
        labels[f"{split}_labels"] = of_split = arrays[f"{split}_labels"]
        logits = arrays.pop(f"{split}_logits")
        if len(of_split):
            confidences, predictions = softmax_confidence(logits)
            rows[split] = Rows(confidences, correct_rows(predictions, of_split), costs.cascade)
    return _Loaded(folder, recipe, network, facts, costs, labels, rows)


def _refuse_contradictions(request: ExportRequest) -> None:
    if request.progressive and request.exit_name is not None:
        raise ExportError("--progressive exports all exits, and --exit names one", "leave one of them out")
    asks = {
        "--exits": request.exits is not None,
        "--threshold": request.threshold != "auto",
        "--max-drop": request.max_drop_pct is not None,
        "--confidence": request.confidence is not None,
        "--threshold-input": request.threshold_input != "optional",
    }
    if not request.progressive and (given := [name for name, asked in asks.items() if asked]):
        raise ExportError(f"{given[0]} is about progressive graphs", "add --progressive, or leave it out")


def _export_submodel(loaded: _Loaded, request: ExportRequest) -> dict[str, Any]:
    k = _submodel_number(loaded, request.exit_name)
    cost = loaded.costs.exits[k - 1]
    path = _output(loaded, request, "main.onnx" if cost.name == "main" else f"sub-model-{k}.onnx")
    val, test = loaded.accuracies("val"), loaded.accuracies("test")
    info = submodel_info(loaded.recipe, loaded.facts, loaded.costs.counted, k, val, test)
    parity = write_submodel(loaded.network, k, path, info, _parity_images(loaded))
    return {
        **_written(path, "submodel", parity),
        "name": cost.name,
        "thresholds": [],
        "test_accuracy_pct": test[k - 1] if test else None,
        "main_test_accuracy_pct": test[-1] if test else None,
        "mean_macs": cost.macs,
        "macs_ratio": cost.macs_ratio,
        "exit_fractions": [1.0],
    }


def _submodel_number(loaded: _Loaded, exit_name: str | None) -> int:
    """The number of the sub-model to export, from 1."""
    count = len(loaded.costs.exits)
    if exit_name is None:
        if not (loaded.folder / runs.SELECTION).exists():
            raise RunError(
                f"nothing was selected in {loaded.folder} yet",
                "choose first with `lcprune select --max-drop 2.0`, or name one: --exit 1 .. --exit main",
            )
        selection = runs.read_json(runs.require(loaded.folder, runs.SELECTION, "lcprune select"))
        return int(selection["selected"]["exit_index"]) + 1
    if exit_name == "main":
        return count
    if not exit_name.isdecimal() or not 1 <= int(exit_name) <= count:
        names = ", ".join([*(str(k) for k in range(1, count)), "main"])
        raise ExportError(f"there is no sub-model {exit_name} in this run", f"name one of {names}")
    return int(exit_name)


def _export_progressive(loaded: _Loaded, request: ExportRequest, notice: Callable[[str], None]) -> dict[str, Any]:
    if len(loaded.network.groups) < 2:
        raise ExportError("this run has no critics, so there is nothing to stop at", "export it with --exit main")
    calibrated = _calibrated(loaded, request) if request.threshold == "auto" else None
    kept, thresholds = (calibrated["exits"], calibrated["thresholds"]) if calibrated else _by_hand(loaded, request)
    path = _output(loaded, request, "progressive.onnx")
    val, test = loaded.accuracies("val"), loaded.accuracies("test")
    info = progressive_info(loaded.recipe, loaded.facts, loaded.costs.counted, kept, val, test)
    images = _parity_images(loaded)
    parity = write_progressive(loaded.network, kept, thresholds, path, info, images, request.threshold_input)
    if calibrated:
        runs.write_json(loaded.folder / runs.THRESHOLDS, calibrated)
        runs.record(loaded.folder, runs.THRESHOLDS)
    results = {split: _simulate(loaded, split, kept, thresholds) for split in ("val", "test")}
    known, deciding = results["test"] or results["val"], results["val"] or results["test"]
    for message in _remarks(deciding, kept):
        notice(message)
    names = [loaded.costs.exits[index].name for index in (*kept, len(loaded.costs.exits) - 1)]
    return {
        **_written(path, "progressive", parity),
        "exits": names,
        "thresholds": list(thresholds),
        "test_accuracy_pct": results["test"].accuracy_pct if results["test"] else None,
        "main_test_accuracy_pct": test[-1] if test else None,
        "val_accuracy_pct": results["val"].accuracy_pct if results["val"] else None,
        "main_val_accuracy_pct": val[-1] if val else None,
        "mean_macs": known.mean_macs if known else None,
        "macs_ratio": known.macs_ratio if known else None,
        "exit_fractions": list(known.exit_fractions) if known else None,
    }


def _remarks(result: ProgressiveResult | None, kept: Sequence[int]) -> list[str]:
    """What a person should know of a graph, by what it does to the validation images, or else to the test images."""
    if result is None:
        return []
    lines = []
    if result.macs_ratio >= 1:
        lines.append(
            f"warning: on validation this graph costs {100 * result.macs_ratio:.0f} % of main's MACs: stopping early "
            "is no gain; try fewer exits with --exits, a larger --max-drop, or cheaper critics (critics.head: pooled)"
        )
    lines += [
        f"all images leave at sub-model {index + 1}: export it alone with --exit {index + 1}"
        for index, fraction in zip(kept, result.exit_fractions, strict=False)  # main has a fraction, too
        if fraction > ALL_LEAVE
    ]
    return lines


def _calibrated(loaded: _Loaded, request: ExportRequest) -> dict[str, Any]:
    """Exits and thresholds that cost least within the budget, as in ``thresholds.json``."""
    split = deciding_split(loaded.labels, request.use_test_split)
    max_drop_pct = _budget(loaded, request)
    kept_by_hand = None if request.exits is None else _exit_indices(loaded, request.exits)
    calibration = calibrate_rows(
        loaded.rows[split],
        max_drop_pct,
        exits=kept_by_hand,
        confidence=request.confidence,
        seed=loaded.recipe.train.seed,
    )
    if not calibration.exits:
        held = f" with confidence {request.confidence}" if request.confidence else ""
        raise BudgetError(
            f"no early exit pays within {max_drop_pct:g} points{held}: main alone is cheapest",
            "allow more with --max-drop, export main with --exit main, or train cheaper critics (critics.head: pooled)",
        )
    content = {"decided_on": split, "max_drop_pct": max_drop_pct, "confidence": request.confidence}
    return {**content, **asdict(calibration)}


def _budget(loaded: _Loaded, request: ExportRequest) -> float:
    """Points that ``auto`` may lose: what was asked for, else the selection's budget."""
    if request.max_drop_pct is not None:
        return request.max_drop_pct
    if not (loaded.folder / runs.SELECTION).exists():
        return DEFAULT_MAX_DROP_PCT
    selection = runs.read_json(runs.require(loaded.folder, runs.SELECTION, "lcprune select"))
    return float(selection["budget"]["max_drop_pct"])


def _by_hand(loaded: _Loaded, request: ExportRequest) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The exits and thresholds that the user names."""
    if request.max_drop_pct is not None or request.confidence is not None:
        raise ExportError(
            "--max-drop and --confidence are about calibrated thresholds", "leave them out, or write --threshold auto"
        )
    every = tuple(range(1, len(loaded.network.groups)))
    kept = _exit_indices(loaded, request.exits or every)
    try:
        values = [float(part) for part in request.threshold.split(",")]
    except ValueError:
        values = []
    if not values or not all(math.isfinite(value) for value in values):
        raise ExportError(f"--threshold {request.threshold} is no threshold", "write auto, 0.9, or one for each exit")
    if len(values) not in (1, len(kept)):
        raise ExportError(
            f"--threshold gives {len(values)} thresholds for {len(kept)} early exits",
            "give one for all, or one for each",
        )
    return kept, tuple(values) if len(values) == len(kept) else tuple(values) * len(kept)


def _exit_indices(loaded: _Loaded, exits: Sequence[int]) -> tuple[int, ...]:
    early = len(loaded.network.groups) - 1
    if absent := [k for k in exits if k > early]:
        raise ExportError(
            f"--exits: there is no early exit {absent[0]} in this run", f"its early exits are 1 to {early}"
        )
    return tuple(k - 1 for k in exits)


def _simulate(
    loaded: _Loaded, split: str, kept: Sequence[int], thresholds: Sequence[float]
) -> ProgressiveResult | None:
    if split not in loaded.rows:
        return None
    rows, of_cascade = loaded.rows[split], [*kept, len(loaded.costs.exits) - 1]
    return cascade(
        rows.confidences[of_cascade],
        rows.correct[of_cascade],
        thresholds,
        rows.cost.exit_macs(kept),
        rows.cost.main_macs,
    )


def _parity_images(loaded: _Loaded) -> np.ndarray[Any, Any]:
    """The first validation images, or test images where none were held out, ``(N, C, H, W)`` uint8."""
    dataset = sources.load(loaded.recipe.data, Path(loaded.facts.data_root), loaded.recipe.train.seed, download=False)
    splits = (dataset.val, dataset.test, dataset.train)
    return next(split.images for split in splits if len(split))[:PARITY_IMAGES]


def _output(loaded: _Loaded, request: ExportRequest, name: str) -> Path:
    path = request.output or loaded.folder / runs.EXPORT / name
    if path.is_dir():
        raise ExportError(f"{path} is a folder", f"name the file: --output {path / name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{path.parent} cannot be made: {error.strerror}", "choose another --output") from None
    return path


def _written(path: Path, kind: str, parity: Parity) -> dict[str, Any]:
    return {
        "path": str(path),
        "kind": kind,
        "precision": "fp32",
        "size_bytes": path.stat().st_size,
        "parity": asdict(parity),
    }
