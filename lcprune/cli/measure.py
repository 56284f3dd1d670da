"""`lcprune profile`, `lcprune select` and `lcprune evaluate`: how good and how large the sub-models are."""

from pathlib import Path
from typing import Annotated

import typer

from lcprune.cli.failing import torch_needed, user_errors
from lcprune.cli.options import (
    LATEST,
    DataRoot,
    Exits,
    Json,
    Quiet,
    Run,
    UseTestSplit,
    data_root_or_default,
    exit_numbers,
    finite,
)
from lcprune.cli.output import notice, show
from lcprune.errors import OnnxModelError, RunError
from lcprune.specs import Minimize


def profile(run: Run = LATEST, as_json: Json = False, quiet: Quiet = False) -> None:
    """Count MACs and parameters, measure size and latency, of every sub-model and of the cascade."""
    with user_errors(as_json):
        with torch_needed():
            from lcprune.pipeline import profile as pipeline
        from lcprune.reporting import tables

        result = pipeline.profile_run(run)
        show(result, tables.profile_table(result), as_json, quiet)


def select(
    run: Run = LATEST,
    max_drop: Annotated[
        float, typer.Option(min=0, max=100, callback=finite, help="Accuracy points that may be lost.")
    ] = 2.0,
    minimize: Annotated[Minimize, typer.Option(help="What the choice shall have least of.")] = "macs",
    exits: Exits = None,
    max_macs: Annotated[int | None, typer.Option(min=1, help="Most multiply-adds for one image.")] = None,
    max_params: Annotated[int | None, typer.Option(min=1, help="Most parameters.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(min=0, callback=finite, help="Longest latency, batch 1, one thread.")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(min=0.5, max=0.9999, callback=finite, help="Hold the drop with this confidence, such as 0.95."),
    ] = None,
    use_test_split: UseTestSplit = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pick the smallest sub-model within the accuracy budget."""
    with user_errors(as_json):
        with torch_needed():
            from lcprune.analysis.select import Budget
            from lcprune.pipeline import select as pipeline
        from lcprune.reporting import tables

        budget = Budget(
            max_drop_pct=max_drop,
            minimize=minimize,
            exits=exit_numbers(exits),
            max_macs=max_macs,
            max_params=max_params,
            max_latency_ms=max_latency_ms,
            confidence=confidence,
        )
        chosen = pipeline.select(run, budget, use_test_split=use_test_split)
        show(chosen.as_json(), tables.selection_table(chosen), as_json, quiet)


def evaluate(
    target: Annotated[Path, typer.Argument(help="A run folder, or an exported model with --data.")] = LATEST,
    data: Annotated[
        str | None,
        typer.Option(metavar="RECIPE|FOLDER", help="Images for an .onnx file: a recipe's test split, or a folder."),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Average the logits over each image and its mirror image (a run alone).")
    ] = False,
    data_root: DataRoot = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Accuracy of every exit, of ensembles and of progressive inference."""
    with user_errors(as_json):
        from lcprune.reporting import tables

        if target.suffix in (".onnx", ".ort", ".json"):
            from lcprune.pipeline import evaluate_onnx

            if data is None:
                raise OnnxModelError(
                    f"{target} needs images to be evaluated on", "add --data with a recipe or a folder"
                )
            if flip:
                raise OnnxModelError(
                    f"{target} decides on plain images: --flip is computed from the weights of a run",
                    "leave --flip out, or name the run",
                )
            result = evaluate_onnx.evaluate(target, data, data_root_or_default(data_root))
        else:
            from lcprune.pipeline import evaluate_run

            if data is not None:
                raise RunError("a run is evaluated on its own images", "leave --data out, or name an .onnx file")
            result = evaluate_run.evaluate(target, flip=flip)
            if flip:
                notice(quiet)("every logit is the mean over an image and its mirror image")
        show(result, tables.evaluation_table(result), as_json, quiet)
