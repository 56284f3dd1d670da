"""`lcprune predict` and `lcprune bench`: exported files at work, without torch."""

from pathlib import Path
from typing import Annotated

import typer

from lcprune.cli.output import Result, command


@command
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
    from lcprune.pipeline import predict as pipeline
    from lcprune.reporting import tables

    result = pipeline.predict(model, images, save_grid, columns)
    return result, tables.prediction_table(result)


@command
def bench(
    models: Annotated[list[Path], typer.Argument(help="The files, or folders of segments, to compare.")],
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each model.")] = 200,
) -> Result:
    """Compare latency and size of models, without torch.

    Batch 1, one thread.
    """
    from lcprune.pipeline import bench as pipeline
    from lcprune.reporting import tables

    result = pipeline.bench(models, runs)
    return result, tables.bench_table(result)
