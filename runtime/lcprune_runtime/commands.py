"""`predict`, `evaluate` and `bench`: what they take and what they return to be printed."""

from pathlib import Path
from typing import Annotated

import typer

from lcprune_runtime.command_line import Result


def predict(
    model: Annotated[Path, typer.Argument(help="A model that `lcprune export` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    save_grid: Annotated[
        Path | None,
        typer.Option(metavar="SHEET.png", help="Also write a contact sheet: every image above its prediction."),
    ] = None,
    columns: Annotated[int, typer.Option(min=1, max=100, help="Images in a row of the contact sheet.")] = 6,
) -> Result:
    """Class, confidence and exit of each image, without torch."""
    from lcprune_runtime import predict, tables

    result = predict.predict(model, images, save_grid, columns)
    return result, tables.prediction_table(result)


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model that `lcprune export` wrote.")],
    data: Annotated[Path, typer.Argument(help="Folder with one subfolder of images for each class.")],
) -> Result:
    """Accuracy of every exit, and of the model with its own thresholds."""
    from lcprune_runtime import evaluate, tables

    result = evaluate.evaluate(model, data)
    return result, tables.evaluation_table(result)


def bench(
    models: Annotated[list[Path], typer.Argument(help="The files, or folders of segments, to compare.")],
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each model, without --data.")] = 200,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Run every image of this folder, one subfolder for each class."),
    ] = None,
) -> Result:
    """Compare latency, size and accuracy of models, without torch.

    Batch 1, one thread, the models in turn. Accuracy and exits need --data.
    """
    from lcprune_runtime import bench, tables

    result = bench.bench(models, runs, data)
    return result, tables.bench_table(result)
