"""One graph that stops early, in float32 or in fewer bits."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lcprune.analysis.evaluate import ProgressiveResult, accuracy_pct
from lcprune.analysis.thresholds import simulate
from lcprune.errors import ExportError
from lcprune.exporters.metadata import ModelInfo
from lcprune.exporters.progressive import cascade_stages, file_size, write_progressive, write_reduced
from lcprune.pipeline.export.calibration import (
    Decision,
    calibrate_exits,
    exits_by_hand,
    recalibrate,
    write_thresholds,
)
from lcprune.pipeline.export.latency_cost import CascadeLatency, cascade_latency, stages_latency
from lcprune.pipeline.export.loaded_run import (
    MAIN,
    LoadedRun,
    exit_number,
    load_dataset,
    output_path,
    parity_images,
    written,
)
from lcprune.pipeline.export.reduced import merged_cost, reduce_network, reduction, warn_of_loss
from lcprune.pipeline.export.request import ExportRequest
from lcprune.pipeline.export.scores import ExitScores
from lcprune.pipeline.export.sidecars import segments_beside
from lcprune.pipeline.info import progressive_info

ALL_LEAVE = 0.999
"""Where more than this fraction leaves at one early exit, that sub-model alone does the same."""
FORECAST = (
    "drop_pct",
    "expected_drop_pct",
    "expected_drop_se_pct",
    "drop_upper_pct",
    "deciding_images",
    "images_needed",
    "max_drop_pct",
    "mean_latency_ms",
)
"""What a result has in common with ``thresholds.json``."""
FEW = 0.01
"""Where less than this fraction goes on to the last exit, the file may do better without it."""


def export_progressive(loaded: LoadedRun, request: ExportRequest, notice: Callable[[str], None]) -> dict[str, Any]:
    """Writes the file with the exits that were asked for, or those that pay, and says what it does to the images."""
    if len(loaded.network.groups) < 2:
        raise ExportError("this run has no critics, so there is nothing to stop at", "export it with --exit main")
    loaded = _ending(loaded, request)
    if request.precision != "fp32":
        return _export_reduced(loaded, request, notice)
    images = parity_images(load_dataset(loaded))
    decided = _decide(loaded, request, images, notice)
    path = output_path(loaded, request, _stem(loaded))
    accuracies = (loaded.scores.accuracies(split) for split in ("val", "test"))
    info = request.shape(_cascade_info(loaded, decided, *accuracies))
    kept = decided.exits
    parity = write_progressive(loaded.network, kept, decided.thresholds, path, info, images, request.threshold_input)
    write_thresholds(loaded, decided)
    return {
        **written(path, "progressive", "fp32", parity),
        **_decided(decided),
        **_cascade_result(loaded, decided, loaded.scores, _simulate(loaded.scores, decided), notice),
        **segments_beside(path, request, lambda: cascade_stages(loaded.network, kept, images), images),
    }


def _ending(loaded: LoadedRun, request: ExportRequest) -> LoadedRun:
    """The run up to the exit that shall be the last."""
    k = exit_number(loaded, request.exit_name or MAIN)
    if k == len(loaded.costs.exits):
        return loaded
    if k == 1:
        raise ExportError(
            "sub-model 1 is the first exit, so there is nothing to stop at before it",
            "leave --progressive out, or name a later exit",
        )
    return loaded.truncated(k)


def _decide(
    loaded: LoadedRun, request: ExportRequest, images: np.ndarray[Any, Any], notice: Callable[[str], None]
) -> Decision:
    """What float32 keeps, and when rows leave it."""
    if not request.calibrates:
        return exits_by_hand(loaded, request)

    def latency() -> CascadeLatency:
        notice("measuring how long an image takes to every exit")
        return cascade_latency(loaded.network, images)

    return calibrate_exits(loaded, request, latency)


def _export_reduced(loaded: LoadedRun, request: ExportRequest, notice: Callable[[str], None]) -> dict[str, Any]:
    """A progressive graph of another precision, with thresholds for what it says itself.

    The exits and the criterion are those that pay in float32; what is left open is which images leave where.
    """
    if request.precision == "fp32":
        raise ValueError("fp32 is not reduced")
    dataset = load_dataset(loaded)
    images = parity_images(dataset)
    of_fp32 = _decide(loaded, request, images, notice)
    path = output_path(loaded, request, _stem(loaded))
    stages = cascade_stages(loaded.network, of_fp32.exits, images)
    cost, seed = merged_cost(loaded.costs.cascade, of_fp32.exits), loaded.recipe.train.seed
    settled = replace(request, criterion=of_fp32.criterion)
    own = reduce_network(stages, request.precision, dataset, cost, settled, seed)
    own = replace(own, scores=own.scores.against(loaded.scores))
    decided = of_fp32
    if request.calibrates:
        decided = recalibrate(loaded, request, own, of_fp32, lambda: stages_latency(own.reduced.stages))
    exits, count = [*decided.exits, len(loaded.costs.exits) - 1], len(loaded.costs.exits)
    info = request.shape(
        _cascade_info(loaded, decided, *(own.accuracies(split, exits, count) for split in ("val", "test")))
    )
    parity = write_reduced(own.reduced, decided.thresholds, path, info, images, request.threshold_input)
    write_thresholds(loaded, decided)
    warn_of_loss(own, request.precision, notice)
    results = _simulate(own.scores, replace(decided, exits=tuple(range(len(decided.exits)))))
    fp32 = _simulate(loaded.scores, of_fp32)["test"]
    return {
        **written(path, "progressive", request.precision, parity),
        **_decided(decided),
        **_cascade_result(loaded, decided, own.scores, results, notice),
        **segments_beside(path, request, lambda: own.reduced.stages, images),
        **reduction(own),
        "fp32": {
            "size_bytes": file_size(stages, of_fp32.thresholds, info),
            "thresholds": list(of_fp32.thresholds),
            "test_accuracy_pct": fp32.accuracy_pct if fp32 else None,
            "macs_ratio": fp32.mean_macs / loaded.main_macs if fp32 else None,
            "exit_fractions": list(fp32.exit_fractions) if fp32 else None,
        },
    }


def _decided(decided: Decision) -> dict[str, Any]:
    """What a result says of when rows leave."""
    result = {"thresholds": list(decided.thresholds), "criterion": decided.criterion}
    result["temperatures"] = list(decided.temperatures)
    return result | {key: value for key, value in (decided.content or {}).items() if key in FORECAST}


def _cascade_info(
    loaded: LoadedRun, decided: Decision, val: Sequence[float | None], test: Sequence[float | None]
) -> ModelInfo:
    info = progressive_info(loaded.recipe, loaded.facts, loaded.costs, decided.exits, val, test)
    return replace(info, criterion=decided.criterion, temperatures=decided.temperatures, main_macs=loaded.main_macs)


def _cascade_result(
    loaded: LoadedRun,
    decided: Decision,
    scores: ExitScores,
    results: dict[str, ProgressiveResult | None],
    notice: Callable[[str], None],
) -> dict[str, Any]:
    """What a graph does to the images, by its own logits."""
    known, deciding = results["test"] or results["val"], results["val"] or results["test"]
    for message in _remarks(loaded, deciding, decided):
        notice(message)
    main = {split: _main_accuracy_pct(scores, split) for split in ("val", "test")}
    own = {split: result.accuracy_pct if result else None for split, result in results.items()}
    return {
        "exits": [loaded.costs.exits[index].name for index in (*decided.exits, len(loaded.costs.exits) - 1)],
        "test_accuracy_pct": own["test"],
        "main_test_accuracy_pct": main["test"],
        "val_accuracy_pct": own["val"],
        "main_val_accuracy_pct": main["val"],
        "mean_macs": known.mean_macs if known else None,
        "macs_ratio": known.mean_macs / loaded.main_macs if known else None,
        "exit_fractions": list(known.exit_fractions) if known else None,
    }


def _stem(loaded: LoadedRun) -> str:
    """Name of the file."""
    return "progressive" if loaded.is_whole else f"progressive-{len(loaded.costs.exits)}"


def _main_accuracy_pct(scores: ExitScores, split: str) -> float | None:
    correct = scores.main_correct(split)
    return None if correct is None else accuracy_pct(correct)


def _remarks(loaded: LoadedRun, result: ProgressiveResult | None, decided: Decision) -> list[str]:
    """What a person should know of a graph, by what it does to the validation images, or else to the test images."""
    if result is None:
        return []
    lines, macs_ratio = [], result.mean_macs / loaded.main_macs
    if macs_ratio >= 1:
        lines.append(
            f"warning: on validation this graph costs {100 * macs_ratio:.0f} % of main's MACs: stopping early "
            "is no gain; try fewer exits with --exits, a larger --max-drop, or cheaper critics (critics.head: pooled)"
        )
    kept, calibrated = decided.exits, decided.content is not None
    if calibrated and result.exit_fractions[-1] < FEW and max(result.exit_fractions) <= ALL_LEAVE:
        last = loaded.costs.exits[-1].name
        lines.append(
            f"{100 * result.exit_fractions[-1]:.1f} % of the images go on to {last}: --exit {kept[-1] + 1} ends the "
            f"graph at sub-model {kept[-1] + 1} and leaves {last} out of the file"
        )
    lines += [
        f"all images leave at sub-model {index + 1}: export it alone with --exit {index + 1}"
        for index, fraction in zip(kept, result.exit_fractions, strict=False)  # main has a fraction, too
        if fraction > ALL_LEAVE
    ]
    return lines


def _simulate(scores: ExitScores, decided: Decision) -> dict[str, ProgressiveResult | None]:
    """What a decision does to the images of each split; None where a split has none."""
    rows = scores.by_criterion[decided.criterion]
    return {
        split: simulate(rows[split], decided.exits, decided.thresholds) if split in rows else None
        for split in ("val", "test")
    }
