"""`lcprune init`."""

from pathlib import Path
from typing import Annotated

import typer

from lcprune.cli.dry_run import costs
from lcprune.cli.failing import user_errors
from lcprune.cli.options import Json, Quiet
from lcprune.cli.output import show


def init(
    folder: Annotated[Path, typer.Argument(help="Holds CLASS/image, or train/CLASS/image and val/ and test/ beside.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Such as vgg or mobilenet_v3_small. Default: by the size of the images."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=8, max=2048, help="Height and width to resize to. Default: by the images.")
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="none|default|PATH", help="What the network begins with; default: ImageNet's.")
    ] = "none",
    output: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("lcprune.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look at a folder of images and write a recipe that fits, for `lcprune train`."""
    with user_errors(as_json):
        from lcprune.pipeline import init as pipeline
        from lcprune.reporting import tables

        wanted = pipeline.Wanted(model, image_size, weights)
        result = pipeline.init(folder, output, wanted, force, costs)
        show(result, tables.survey_table(result), as_json, quiet)
