"""`lcprune reproduce`: the paper's tables and figures."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from lcprune.cli.failing import torch_needed
from lcprune.cli.options import DataRoot, Overrides, TrainingDevice
from lcprune.cli.output import command, display, is_other_rank, notice
from lcprune_runtime.command_line import Quiet, Result

Part = Literal[
    "table1", "table2", "table3", "table4", "table5", "table6", "table7", "table8", "table9",
    "figure3", "figure4", "figure5", "figure6", "figure7",
]  # fmt: skip
Scale = Literal["paper", "small", "tiny"]


class Dataset(StrEnum):
    """What the paper trains on; typer takes no list of literals."""

    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"
    IMAGENET = "imagenet"


@command
def reproduce(
    name: Annotated[Part, typer.Argument(help="A table or figure of the paper.")],
    datasets: Annotated[
        list[Dataset] | None, typer.Option("--dataset", help="Only this; repeatable. Default: all that it shows.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Runs of each kind. Default: 5, small 2, tiny 1.")
    ] = None,
    scale: Annotated[
        Scale, typer.Option(help="paper: 80,000 steps, for a GPU; small: hours on a CPU; tiny: seconds, a rehearsal.")
    ] = "paper",
    overrides: Overrides = None,
    device: TrainingDevice = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder of runs and results. Default: reproduce/SCALE.")] = None,
    data_root: DataRoot = None,
    quiet: Quiet = False,
) -> Result | None:
    """Run a table or figure of the paper; finished runs are reused."""
    with torch_needed():
        from lcprune.paper import reproduce as paper
        from lcprune.paper import tables

    request = paper.Request(
        name=name,
        scale=scale,
        datasets=tuple(dataset.value for dataset in datasets or ()),
        seeds=seeds,
        out=out,
        data_root=data_root,
        device=device,
        overrides=tuple(overrides or ()),
    )
    if is_other_rank():  # rank 0 makes the table
        paper.train_runs(request, display=display(quiet), notice=notice(quiet))
        return None
    result = paper.reproduce(request, display=display(quiet), notice=notice(quiet))
    return result, tables.terminal(result)
