"""`predict`, `evaluate` and `bench`: what they take and what they return to be printed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lcprune_runtime.command_line import Result
from lcprune_runtime.errors import DataError

OnBadImage = Annotated[
    Literal["fail", "skip"],
    typer.Option(help="Images that cannot be read are named. fail: after the others, exit code 1; skip: exit code 0."),
]


def predict(
    model: Annotated[Path, typer.Argument(help="A model that `lcprune export` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    save_grid: Annotated[
        Path | None,
        typer.Option(metavar="SHEET.png", help="Also write a contact sheet: every image above its prediction."),
    ] = None,
    columns: Annotated[int, typer.Option(min=1, max=100, help="Images in a row of the contact sheet.")] = 6,
    on_bad_image: OnBadImage = "fail",
) -> Result:
    """Class, confidence and exit of each image, without torch."""
    from lcprune_runtime import predict, tables

    result = predict.predict(model, images, save_grid, columns)
    return finished(result, tables.prediction_table(result), result["bad_images"], on_bad_image)


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model that `lcprune export` wrote.")],
    data: Annotated[Path, typer.Argument(help="Folder with one subfolder of images for each class.")],
    on_bad_image: OnBadImage = "fail",
) -> Result:
    """Accuracy of every exit, and of the model with its own thresholds."""
    from lcprune_runtime import evaluate, tables

    result = evaluate.evaluate(model, data)
    return finished(result, tables.evaluation_table(result), result["bad_images"], on_bad_image)


def bench(
    models: Annotated[list[Path], typer.Argument(help="The files, or folders of segments, to compare.")],
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each model, without --data.")] = 200,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Run every image of this folder, one subfolder for each class."),
    ] = None,
    on_bad_image: OnBadImage = "fail",
) -> Result:
    """Compare latency, size and accuracy of models, without torch.

    Batch 1, one thread, the models in turn. Accuracy and exits need --data.
    """
    from lcprune_runtime import bench, tables

    result = bench.bench(models, runs, data)
    return finished(result, tables.bench_table(result), result[0].get("bad_images", ()), on_bad_image)


def finished(content: Any, table: Any, bad: Sequence[dict[str, str]], on_bad_image: Literal["fail", "skip"]) -> Result:
    """The result of a command that went on after the images `bad`, with what it fails with in the end, if it does."""
    if not bad:
        return content, table
    from lcprune_runtime.tables import bad_image_lines

    shown = [*table, *bad_image_lines(bad)]
    if on_bad_image == "skip":
        return content, shown
    return content, shown, DataError(f"images that cannot be read: {len(bad)}", "replace them, or --on-bad-image skip")
