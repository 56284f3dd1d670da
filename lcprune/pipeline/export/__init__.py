"""`lcprune export`: the selected sub-model, or one graph that stops early, from the run to the files.

The network becomes float32 stages, one for each exit that the file keeps (`lcprune.exporters.stages`); these may be
reduced to fewer bits, with thresholds for what they say themselves; the stages become one graph, which is checked
before it gets its name. A sub-model is a graph of one stage.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from lcprune import runs
from lcprune.analysis.evaluate import ProgressiveResult, accuracy_pct
from lcprune.analysis.thresholds import simulate
from lcprune.data.sources import Dataset
from lcprune.exporters.metadata import ModelInfo
from lcprune.exporters.progressive import cascade_stages, file_size, write_progressive, write_reduced, write_submodel
from lcprune.exporters.verify import Parity
from lcprune.pipeline.export.calibration import (
    Decision,
    calibrate_exits,
    exits_by_hand,
    recalibrate,
    write_thresholds,
)
from lcprune.pipeline.export.latency_cost import CascadeLatency, cascade_latency, stages_latency
from lcprune.pipeline.export.loaded_run import LoadedRun, load, load_dataset, output_path, parity_images
from lcprune.pipeline.export.reduced import merged_cost, reduce_network, reduction, warn_of_loss
from lcprune.pipeline.export.request import ExportRequest, refuse_contradictions
from lcprune.pipeline.export.scores import ExitScores
from lcprune.pipeline.export.sidecars import record, segments_beside, write_sidecars
from lcprune.pipeline.info import file_info

__all__ = ["ExportRequest", "export"]

ALL_LEAVE = 0.999
"""Where more than this fraction leaves at one early exit, that sub-model alone does the same."""
FEW = 0.01
"""Where less than this fraction goes on to the last exit, the file may do better without it."""
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

Notice = Callable[[str], None]


def export(folder: Path, request: ExportRequest, notice: Notice) -> dict[str, Any]:
    """Writes the file, checked against torch, and what lies beside it, and says what it is.

    Raises:
        RunError: If the run is not finished, or nothing was selected and no exit named.
        BudgetError: If no early exit pays within the budget.
        ExportError: If the request contradicts itself, or the file differs from torch; then there is no file.
    """
    refuse_contradictions(request)
    folder, recipe = runs.open_run(folder)
    run = load(folder, recipe, request)
    dataset = load_dataset(run)
    decided = _decide(run, request, parity_images(dataset), notice)
    path = output_path(run, request)
    write = _write_float if request.precision == "fp32" else _write_reduced
    result = write_sidecars(recipe, write(run, request, dataset, decided, path, notice))
    record(folder, result)
    return result


def _decide(run: LoadedRun, request: ExportRequest, images: np.ndarray[Any, Any], notice: Notice) -> Decision:
    """The early exits that float32 keeps, and when rows leave them; a sub-model has none."""
    if not request.progressive:
        return Decision((), (), "softmax", (1.0,))
    if not request.calibrates:
        return exits_by_hand(run, request)

    def latency() -> CascadeLatency:
        notice("measuring how long an image takes to every exit")
        return cascade_latency(run.network, images)

    return calibrate_exits(run, request, latency)


def _write_float(
    run: LoadedRun, request: ExportRequest, dataset: Dataset, decided: Decision, path: Path, notice: Notice
) -> dict[str, Any]:
    images, kept = parity_images(dataset), decided.exits
    info = _info(run, request, decided, *(run.scores.accuracies(split) for split in ("val", "test")))
    if kept:
        parity = write_progressive(run.network, kept, decided.thresholds, path, info, images, request.threshold_input)
    else:
        parity = write_submodel(run.network, len(run.network.groups), path, info, images)
    write_thresholds(run, decided)
    return {
        **_written(path, request, parity),
        **_outcome(run, decided, run.scores, _simulate(run.scores, decided), notice),
        **segments_beside(path, request, lambda: cascade_stages(run.network, kept, images), images),
    }


def _write_reduced(
    run: LoadedRun, request: ExportRequest, dataset: Dataset, of_fp32: Decision, path: Path, notice: Notice
) -> dict[str, Any]:
    """The same in another precision, with thresholds for what it says itself.

    The exits and the criterion are those that pay in float32; what is left open is which images leave where.
    """
    if request.precision == "fp32":
        raise ValueError("fp32 is not reduced")
    images = parity_images(dataset)
    stages = cascade_stages(run.network, of_fp32.exits, images)
    cost, seed = merged_cost(run.costs.cascade, of_fp32.exits), run.recipe.train.seed
    settled = replace(request, criterion=of_fp32.criterion)
    own = reduce_network(stages, request.precision, dataset, cost, settled, seed)
    own = replace(own, scores=own.scores.against(run.scores))
    decided = of_fp32
    if request.calibrates and decided.exits:
        decided = recalibrate(run, request, own, of_fp32, lambda: stages_latency(own.reduced.stages))
    exits, count = [*decided.exits, len(run.costs.exits) - 1], len(run.costs.exits)
    info = _info(run, request, decided, *(own.accuracies(split, exits, count) for split in ("val", "test")))
    parity = write_reduced(own.reduced, decided.thresholds, path, info, images, request.threshold_input)
    write_thresholds(run, decided)
    warn_of_loss(own, request.precision, notice)
    results = _simulate(own.scores, replace(decided, exits=tuple(range(len(decided.exits)))))
    fp32 = _simulate(run.scores, of_fp32)["test"]
    return {
        **_written(path, request, parity),
        **_outcome(run, decided, own.scores, results, notice),
        **segments_beside(path, request, lambda: own.reduced.stages, images),
        **reduction(own),
        "fp32": {
            "size_bytes": file_size(stages, of_fp32.thresholds, info),
            "thresholds": list(of_fp32.thresholds),
            "test_accuracy_pct": fp32.accuracy_pct if fp32 else None,
            "macs_ratio": fp32.mean_macs / run.main_macs if fp32 else None,
            "exit_fractions": list(fp32.exit_fractions) if fp32 else None,
        },
    }


def _info(
    run: LoadedRun,
    request: ExportRequest,
    decided: Decision,
    val: Sequence[float | None],
    test: Sequence[float | None],
) -> ModelInfo:
    info = file_info(run.recipe, run.facts, run.costs, decided.exits, val, test)
    return replace(
        info,
        criterion=decided.criterion,
        temperatures=decided.temperatures,
        main_macs=run.main_macs,
        layout=request.layout,
        batch=request.batch,
    )


def _simulate(scores: ExitScores, decided: Decision) -> dict[str, ProgressiveResult | None]:
    """What a decision does to the images of each split; None where a split has none."""
    rows = scores.by_criterion[decided.criterion]
    return {
        split: simulate(rows[split], decided.exits, decided.thresholds) if split in rows else None
        for split in ("val", "test")
    }


def _written(path: Path, request: ExportRequest, parity: Parity) -> dict[str, Any]:
    return {
        "path": str(path),
        "kind": "progressive" if request.progressive else "submodel",
        "precision": request.precision,
        "size_bytes": path.stat().st_size,
        "parity": asdict(parity),
    }


def _outcome(
    run: LoadedRun,
    decided: Decision,
    scores: ExitScores,
    results: dict[str, ProgressiveResult | None],
    notice: Notice,
) -> dict[str, Any]:
    """What a graph does to the images, by its own logits."""
    known, deciding = results["test"] or results["val"], results["val"] or results["test"]
    for message in _remarks(run, deciding, decided) if decided.exits else ():
        notice(message)
    main_correct = {split: scores.main_correct(split) for split in ("val", "test")}
    main = {split: None if right is None else accuracy_pct(right) for split, right in main_correct.items()}
    own = {split: result.accuracy_pct if result else None for split, result in results.items()}
    names = [run.costs.exits[index].name for index in (*decided.exits, len(run.costs.exits) - 1)]
    result = {
        "name": names[-1],
        "exits": names,
        "thresholds": list(decided.thresholds),
        "criterion": decided.criterion,
        "temperatures": list(decided.temperatures),
        **{key: value for key, value in (decided.content or {}).items() if key in FORECAST},
        "test_accuracy_pct": own["test"],
        "main_test_accuracy_pct": main["test"],
        "val_accuracy_pct": own["val"],
        "main_val_accuracy_pct": main["val"],
        "mean_macs": known.mean_macs if known else None,
        "macs_ratio": known.mean_macs / run.main_macs if known else None,
        "exit_fractions": list(known.exit_fractions) if known else None,
    }
    if not decided.exits:  # known without any image
        macs = run.costs.exits[-1].macs
        result |= {"mean_macs": macs, "macs_ratio": macs / run.main_macs, "exit_fractions": [1.0]}
    return result


def _remarks(run: LoadedRun, result: ProgressiveResult | None, decided: Decision) -> list[str]:
    """What a person should know of a graph, by what it does to the validation images, or else to the test images."""
    if result is None:
        return []
    lines, macs_ratio = [], result.mean_macs / run.main_macs
    if macs_ratio >= 1:
        lines.append(
            f"warning: on validation this graph costs {100 * macs_ratio:.0f} % of main's MACs: stopping early "
            "is no gain; try fewer exits with --exits, a larger --max-drop, or cheaper critics (critics.head: pooled)"
        )
    kept, calibrated = decided.exits, decided.content is not None
    if calibrated and result.exit_fractions[-1] < FEW and max(result.exit_fractions) <= ALL_LEAVE:
        last = run.costs.exits[-1].name
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
