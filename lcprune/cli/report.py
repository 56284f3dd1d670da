"""`lcprune report`: a page about a run."""

from pathlib import Path
from typing import Annotated

import typer

from lcprune.cli.failing import torch_needed, user_errors
from lcprune.cli.options import LATEST, Json, Quiet, Run
from lcprune.cli.output import show


def report(
    run: Run = LATEST,
    output: Annotated[Path | None, typer.Option(help="File to write. Default: RUN/report.html.")] = None,
    rdm: Annotated[
        bool, typer.Option("--rdm/--no-rdm", help="What the layers make of images; it runs the network, seconds.")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page about a run, which needs no network and no other file."""
    with user_errors(as_json):
        with torch_needed():
            from lcprune.pipeline import report as pipeline

        written = pipeline.report(run, output=output, with_rdm=rdm)
        show(written.as_json(), f"wrote {written.path} ({written.size_bytes / 1000:,.0f} kB)", as_json, quiet)
