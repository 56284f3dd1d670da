"""`lcprune doctor` and `lcprune verify`: whether the machine and the files are in order."""

from pathlib import Path
from typing import Annotated

import typer

from lcprune.cli.failing import user_errors
from lcprune.cli.options import LATEST, Json, Quiet
from lcprune.cli.output import show


def verify(
    target: Annotated[Path, typer.Argument(help="A run folder, or a file that it exported.")] = LATEST,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hold every file of a run against its recorded SHA-256."""
    with user_errors(as_json):
        from lcprune.pipeline import verify as pipeline

        result = pipeline.verify(target)
        show(result, f"{len(result['files'])} files are what was recorded", as_json, quiet)


def doctor(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder: say as well in what this machine differs from the run's.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what this machine has, and what is wrong with the installation."""
    with user_errors(as_json):
        from lcprune.pipeline import doctor as pipeline
        from lcprune.reporting import tables

        result = pipeline.examine(run)
        show(result, tables.doctor_table(result), as_json, quiet)
        if result["problems"]:
            raise typer.Exit(1)
