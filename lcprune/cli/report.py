"""`lcprune report` and `lcprune reproduce`: pages and tables about what was trained."""

from pathlib import Path
from typing import Annotated

import typer

from lcprune.cli.choices import Device, PaperDataset, PaperPart, Scale
from lcprune.cli.failing import torch_needed, user_errors
from lcprune.cli.options import LATEST, DataRoot, Json, Overrides, Quiet, Run, TrainingDevice, data_root_or_default
from lcprune.cli.output import display, is_silent, notice, show


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


def reproduce(
    name: Annotated[PaperPart, typer.Argument(help="A table or figure of the paper.")],
    datasets: Annotated[
        list[PaperDataset] | None, typer.Option("--dataset", help="Only this; repeatable. Default: all that it shows.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Runs of each kind. Default: 5, small 2, tiny 1.")
    ] = None,
    scale: Annotated[
        Scale, typer.Option(help="paper: 80,000 steps, for a GPU; small: hours on a CPU; tiny: seconds, a rehearsal.")
    ] = Scale.PAPER,
    overrides: Overrides = None,
    device: TrainingDevice = Device.AUTO,
    out: Annotated[Path | None, typer.Option(help="Folder of runs and results. Default: reproduce/SCALE.")] = None,
    data_root: DataRoot = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a table or figure of the paper and hold it against the paper's figures; what is there is not run again."""
    with user_errors(as_json):
        with torch_needed():
            from lcprune.pipeline import reproduce as pipeline
        from lcprune.report import tables

        request = pipeline.Request(
            name=name.value,
            scale=scale.value,
            datasets=tuple(dataset.value for dataset in datasets or ()),
            seeds=seeds,
            out=out,
            data_root=data_root_or_default(data_root),
            device=device.value,
            overrides=tuple(overrides or ()),
        )
        if is_silent(quiet=False):  # the first of torchrun's processes makes the table
            pipeline.help_reproduce(request, display=display(quiet=True), notice=notice(quiet))
            return
        result = pipeline.reproduce(request, display=display(quiet), notice=notice(quiet))
        show(result, tables.reproduction_table(result), as_json, quiet)
