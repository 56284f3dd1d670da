"""`lcprune predict` and `lcprune bench`: exported files at work, without torch."""

from pathlib import Path
from typing import Annotated

import typer

from lcprune.cli.failing import user_errors
from lcprune.cli.options import Json, Quiet
from lcprune.cli.output import show


def predict(
    model: Annotated[Path, typer.Argument(help="A model that `lcprune export` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    save_grid: Annotated[
        Path | None,
        typer.Option(metavar="SHEET.png", help="Also a contact sheet: every image, with what the model says under it."),
    ] = None,
    columns: Annotated[int, typer.Option(min=1, max=100, help="Images in a row of the contact sheet.")] = 6,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Class, confidence and exit of each image; needs no torch."""
    with user_errors(as_json):
        from lcprune.pipeline import predict as pipeline
        from lcprune.reporting import tables

        result = pipeline.predict(model, images, save_grid, columns)
        show(result, tables.prediction_table(result), as_json, quiet)


def bench(
    models: Annotated[list[Path], typer.Argument(help="The files, or folders of segments, to compare.")],
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each model.")] = 200,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Latency and size of models side by side, batch 1, one thread; needs no torch."""
    with user_errors(as_json):
        from lcprune.pipeline import bench as pipeline
        from lcprune.reporting import tables

        result = pipeline.bench(models, runs)
        show(result, tables.bench_table(result), as_json, quiet)
