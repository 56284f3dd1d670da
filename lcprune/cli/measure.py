"""`lcprune profile`, `select`, `evaluate` and `report`: how good and how large the sub-models of a run are."""

from pathlib import Path
from typing import Annotated

import typer

from lcprune.cli.failing import torch_needed
from lcprune.cli.options import LATEST, DataRoot, Exits, Run, RunDataRoot, UseTestSplit, exit_labels, finite
from lcprune.cli.output import command, loops_shown, notice
from lcprune.errors import OnnxModelError, RunError
from lcprune.specs import Minimize
from lcprune_runtime.command_line import Json, Quiet, Result
from lcprune_runtime.commands import OnBadImage, finished


@command
def profile(run: Run = LATEST, as_json: Json = False, quiet: Quiet = False) -> Result:
    """Measure MACs, parameters, size and latency of every sub-model."""
    with torch_needed():
        from lcprune.pipeline import profile as pipeline
    from lcprune.reporting import tables

    with loops_shown(silent=quiet or as_json):
        result = pipeline.profile_run(run)
    return result, tables.profile_table(result)


@command
def select(
    run: Run = LATEST,
    max_drop: Annotated[
        float, typer.Option(min=0, max=100, callback=finite, help="Accuracy points that may be lost.")
    ] = 2.0,
    minimize: Annotated[Minimize, typer.Option(help="Cost to minimize.")] = "macs",
    exits: Exits = None,
    max_macs: Annotated[int | None, typer.Option(min=1, help="Most multiply-adds for one image.")] = None,
    max_params: Annotated[int | None, typer.Option(min=1, help="Most parameters.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(min=0, callback=finite, help="Longest latency, batch 1, one thread.")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(min=0.5, max=0.9999, callback=finite, help="Keep --max-drop with this confidence, such as 0.95."),
    ] = None,
    use_test_split: UseTestSplit = False,
) -> Result:
    """Pick the smallest sub-model within the accuracy budget."""
    with torch_needed():
        from lcprune.analysis.select import Budget
        from lcprune.pipeline import select as pipeline
    from lcprune.reporting import tables

    budget = Budget(
        max_drop_pct=max_drop,
        minimize=minimize,
        exits=exit_labels(exits),
        max_macs=max_macs,
        max_params=max_params,
        max_latency_ms=max_latency_ms,
        confidence=confidence,
    )
    chosen = pipeline.select(run, budget, use_test_split=use_test_split)
    return chosen.as_json(), tables.selection_table(chosen)


@command
def evaluate(
    target: Annotated[Path, typer.Argument(help="A run folder, or an exported model with --data.")] = LATEST,
    data: Annotated[
        str | None,
        typer.Option(metavar="RECIPE|FOLDER", help="Images for an .onnx file: a recipe's test split, or a folder."),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Average the logits over each image and its mirror image (runs only).")
    ] = False,
    data_root: DataRoot = None,
    on_bad_image: OnBadImage = "fail",
    as_json: Json = False,
    quiet: Quiet = False,
) -> Result:
    """Accuracy of every exit, ensemble and progressive inference."""
    from lcprune_runtime import tables

    if target.suffix in (".onnx", ".ort", ".json"):
        from lcprune.pipeline import evaluate_onnx

        if data is None:
            raise OnnxModelError(f"{target} needs images to be evaluated on", "add --data with a recipe or a folder")
        if flip:
            raise OnnxModelError(
                f"--flip needs the weights of a run: {target} decides on plain images",
                "leave --flip out, or name the run",
            )
        with loops_shown(silent=quiet or as_json):
            result = evaluate_onnx.evaluate(target, data, data_root)
    else:
        from lcprune.pipeline import evaluate_run

        if data is not None:
            raise RunError("a run is evaluated on its own images", "leave --data out, or name an .onnx file")
        with loops_shown(silent=quiet or as_json):
            result = evaluate_run.evaluate(target, flip=flip, data_root=data_root)
        if flip:
            notice(quiet)("every logit is the mean over an image and its mirror image")
    return finished(result, tables.evaluation_table(result), result.get("bad_images", ()), on_bad_image)


@command
def report(
    run: Run = LATEST,
    output: Annotated[Path | None, typer.Option(help="File to write. Default: RUN/report.html.")] = None,
    rdm: Annotated[
        bool, typer.Option("--rdm/--no-rdm", help="Show dissimilarity matrices of the layers; runs the network.")
    ] = True,
    data_root: RunDataRoot = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> Result:
    """Write one self-contained HTML page about a run."""
    with torch_needed():
        from lcprune.pipeline import report as pipeline

    with loops_shown(silent=quiet or as_json):
        written = pipeline.report(run, output=output, with_rdm=rdm, data_root=data_root)
    return written, f"wrote {written['path']} ({written['size_bytes'] / 1000:,.0f} kB)"
