"""`lcprune export`: the selected sub-model, or one graph with early exits, from the run to the files.

The network becomes float32 stages, one for each exit that the file keeps (`lcprune.exporters.stages`); these may be
reduced to fewer bits, with thresholds for their own logits; the stages become one graph, which is checked before it
gets its name. A sub-model is a graph of one stage.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lcprune import runs
from lcprune.analysis.evaluate import ProgressiveResult, accuracy_pct
from lcprune.analysis.thresholds import simulate
from lcprune.errors import ExportError
from lcprune.exits import exit_label
from lcprune.exporters.converted import write_converted
from lcprune.exporters.progressive import complete, file_size, write_model
from lcprune.exporters.stages import cascade_stages
from lcprune.exporters.verify import Parity
from lcprune.pipeline.export.calibration import Decision, decide, recalibrate
from lcprune.pipeline.export.exported_cascade import ExportedCascade, reduced, warn_of_loss
from lcprune.pipeline.export.latency_cost import medians_ms, stages_latency
from lcprune.pipeline.export.loaded_run import load
from lcprune.pipeline.export.request import ExportRequest, refuse_contradictions
from lcprune.pipeline.export.scores import ExitScores
from lcprune.pipeline.export.sidecars import write_sidecars, written_files
from lcprune.pipeline.info import file_info
from lcprune.specs import FORMATS
from lcprune_runtime.metadata import ModelInfo

__all__ = ["ExportRequest", "export"]

ALL_LEAVE = 0.999
"""Where more than this fraction leaves at one early exit, that sub-model alone does the same."""
FEW = 0.01
"""Where less than this fraction goes on to the last exit, the file may do better without it."""
LATENCY_RUNS = 50
PAYS = 0.97
"""Of float32's latency: int8 that takes more is said not to pay."""
NAMED = 3
"""Operators in a message, the most frequent ones."""
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
Results = dict[str, ProgressiveResult | None]
"""Of ``val`` and ``test``; None where a split has no images."""


def export(folder: Path, request: ExportRequest, notice: Notice, *, data_root: Path | None = None) -> dict[str, Any]:
    """Writes the file, checked against torch, and what lies beside it, and describes it.

    Args:
        folder: Of the run.
        request: What to export.
        notice: Receives messages for the user.
        data_root: Folder of the run's images, if they have moved.

    Raises:
        RunError: If the run is not finished, or nothing was selected and no exit named.
        BudgetError: If no early exit pays within the budget.
        ExportError: If the request contradicts itself, or the file differs from torch; then there is no file.
    """
    refuse_contradictions(request)
    folder, recipe = runs.open_run(folder)
    if request.layout == "shared" and not recipe.data.sizes:
        raise ExportError("--layout shared is about networks of several image sizes", "leave it out")
    run = load(folder, recipe, request, data_root)
    decided = of_fp32 = decide(run, request, notice)
    exits = [*of_fp32.exits, len(run.costs.exits) - 1]
    costs = run.costs.kept(exits)
    stages, reference = cascade_stages(run.network, of_fp32.exits, run.parity_images)
    cascade = fp32 = ExportedCascade(stages, reference, run.scores.kept(exits))
    if request.precision != "fp32":
        settled = replace(request, criterion=of_fp32.criterion)
        classes = {split: of_split[exits] for split, of_split in run.classes.items()}
        cascade = reduced(fp32, classes, run.dataset, costs.cascade, settled, recipe.train.seed)
        warn_of_loss(cascade.scores, fp32.scores, request, notice)
        if request.calibrates and of_fp32.exits:
            decided = recalibrate(run, request, cascade.scores, of_fp32, lambda: stages_latency(cascade.stages))

    accuracies = (cascade.scores.accuracies(split) for split in ("val", "test"))
    converted = FORMATS[request.file_format].package is not None
    info = replace(
        file_info(run.info, costs, decided.thresholds, *accuracies),
        criterion=decided.criterion,
        temperatures=decided.temperatures,
        layout=request.layout,
        batch=1 if converted else request.batch,
    )
    info = complete(info, len(exits))
    parity: Parity | None
    if converted:
        parity = write_converted(run.network, of_fp32.exits, reference, run.path, info, request.file_format)
    else:
        parity = write_model(
            cascade.stages, cascade.reference, run.path, info, request.threshold_input, cascade.quantization
        )
    files = written_files(run.path)
    result = {
        "path": str(run.path),
        "kind": "progressive" if request.progressive else "submodel",
        "format": request.file_format,
        "precision": request.precision,
        "size_bytes": sum(file.stat().st_size for file in files),
        "parity": asdict(parity) if parity else None,
        **_outcome(info, decided, cascade.scores, notice),
    }
    if cascade.quantization:
        of_float = replace(info, thresholds=of_fp32.thresholds)
        result |= {
            "quantization": cascade.quantization.as_json(),
            "agreement": cascade.agreement,
            "last_exit_test_accuracy_pct": [
                next(reversed(scores.accuracies("test")), None) for scores in (fp32.scores, cascade.scores)
            ],
            "fp32": {"size_bytes": file_size(fp32.stages, of_float), **_of_fp32(info.main_macs, of_fp32, fp32.scores)},
        }
        _add_latencies(result, medians_ms([fp32.stages, cascade.stages], LATENCY_RUNS), notice)
    return write_sidecars(run, request, result, info, cascade, decided.content)


def _add_latencies(result: dict[str, Any], exit_ms: Sequence[Sequence[float]], notice: Notice) -> None:
    """Adds mean latencies in float32 and in the file's precision, and says if the file is no faster.

    Args:
        result: Of the file.
        exit_ms: Milliseconds to every exit, in float32 and in the file's precision.
        notice: Told if int8 does not pay.
    """
    for of_one, of_exits in zip((result["fp32"], result), exit_ms, strict=True):
        fractions = of_one["exit_fractions"] or ([1.0] if len(of_exits) == 1 else None)
        of_one["latency_ms"] = fractions and sum(map(operator.mul, fractions, of_exits))
    result["last_exit_latency_ms"] = [of_exits[-1] for of_exits in exit_ms]
    before, after = result["last_exit_latency_ms"]
    if result["precision"] == "int8" and after > PAYS * before:
        floating = [*result["quantization"]["float_operators"].items()][:NAMED]
        between = ", ".join(f"{count} {name}" for name, count in floating)
        notice(
            f"warning: int8 does not pay here: {result['exits'][-1]} takes {after:.2f} ms, {before:.2f} in float32"
            + (f" (in float between integers: {between})" if between else "")
            + "; --precision w8 is as small, and as fast as float32"
        )


def _of_fp32(main_macs: int, decided: Decision, scores: ExitScores) -> dict[str, Any]:
    """What float32 would do to the test images."""
    result = _simulate(scores, decided)["test"]
    return {
        "thresholds": list(decided.thresholds),
        "test_accuracy_pct": result.accuracy_pct if result else None,
        "macs_ratio": result.mean_macs / main_macs if result else None,
        "exit_fractions": list(result.exit_fractions) if result else None,
    }


def _simulate(scores: ExitScores, decided: Decision) -> Results:
    """What a decision does to the images of each split."""
    rows, early = scores.by_criterion[decided.criterion], range(len(decided.exits))
    return {
        split: simulate(rows[split], early, decided.thresholds) if split in rows else None for split in ("val", "test")
    }


def _outcome(info: ModelInfo, decided: Decision, scores: ExitScores, notice: Notice) -> dict[str, Any]:
    """What a file does to the images, by its own logits.

    Args:
        info: Its metadata.
        decided: Exits and thresholds.
        scores: Of its logits.
        notice: Told what the user should know.
    """
    results = _simulate(scores, decided)
    known, deciding = results["test"] or results["val"], results["val"] or results["test"]
    for message in _remarks(info, deciding, decided) if decided.exits else ():
        notice(message)
    main = {split: accuracy_pct(rows.main_correct) for split, rows in scores.any_criterion.items()}
    own = {split: result.accuracy_pct if result else None for split, result in results.items()}
    names = [of_exit.name for of_exit in info.exits]
    mean_macs, fractions = (known.mean_macs, list(known.exit_fractions)) if known else (None, None)
    if not decided.exits:  # known without any image
        mean_macs, fractions = info.exits[0].macs, [1.0]
    return {
        "name": names[-1],
        "exits": names,
        "thresholds": list(decided.thresholds),
        "criterion": decided.criterion,
        "temperatures": list(decided.temperatures),
        **{key: value for key, value in (decided.content or {}).items() if key in FORECAST},
        "test_accuracy_pct": own["test"],
        "main_test_accuracy_pct": main.get("test"),
        "val_accuracy_pct": own["val"],
        "main_val_accuracy_pct": main.get("val"),
        "mean_macs": mean_macs,
        "macs_ratio": None if mean_macs is None else mean_macs / info.main_macs,
        "exit_fractions": fractions,
    }


def _remarks(info: ModelInfo, result: ProgressiveResult | None, decided: Decision) -> list[str]:
    """What the user should know of a graph, by what it does to the validation images, or else to the test images."""
    if result is None:
        return []
    lines, macs_ratio = [], result.mean_macs / info.main_macs
    if macs_ratio >= 1:
        lines.append(
            f"warning: on validation this graph costs {100 * macs_ratio:.0f} % of main's MACs: early exits "
            "are no gain; try fewer exits with --exits, a larger --max-drop, or cheaper critics (critics.head: pooled)"
        )
    *early, last = (of_exit.name for of_exit in info.exits)
    calibrated = decided.content is not None
    if calibrated and result.exit_fractions[-1] < FEW and max(result.exit_fractions) <= ALL_LEAVE:
        lines.append(
            f"{100 * result.exit_fractions[-1]:.1f} % of the images go on to {last}: --exit {exit_label(early[-1])} "
            f"ends the graph at {early[-1]} and leaves {last} out of the file"
        )
    lines += [
        f"all images leave at {name}: export it alone with --exit {exit_label(name)}"
        for name, fraction in zip(early, result.exit_fractions, strict=False)  # main has a fraction, too
        if fraction > ALL_LEAVE
    ]
    return lines
