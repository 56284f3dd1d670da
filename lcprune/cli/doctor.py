"""`lcprune doctor` and `lcprune verify`: whether the installation and the files are in order."""

from pathlib import Path
from typing import Annotated

import typer

from lcprune.cli.options import LATEST
from lcprune.cli.output import command
from lcprune_runtime.command_line import Json, Quiet, Result, show


@command
def verify(
    target: Annotated[Path, typer.Argument(help="A run folder, or a file that it exported.")] = LATEST,
) -> Result:
    """Verify the SHA-256 checksum of every file of a run."""
    from lcprune.pipeline import verify as pipeline

    result = pipeline.verify(target)
    return result, f"{len(result['files'])} files have the recorded SHA-256"


@command
def doctor(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder: also list how this machine differs from the run's.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what this machine has, and problems of the installation."""
    from lcprune.pipeline import doctor as pipeline
    from lcprune.reporting import tables

    result = pipeline.examine(run)
    show(result, tables.doctor_table(result), as_json, quiet)
    if result["problems"]:
        raise typer.Exit(1)
