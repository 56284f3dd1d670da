"""`lcprune train` and `lcprune resume`."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from lcprune.cli.failing import torch_needed
from lcprune.cli.options import (
    LATEST,
    DataRoot,
    Overrides,
    RecipeName,
    Run,
    RunDataRoot,
    TrainingDevice,
    whole_numbers,
)
from lcprune.cli.output import command, display, notice
from lcprune.cli.recipes import dry_run as cost_of
from lcprune.errors import SetupError
from lcprune.specs import BadImage, Parallel
from lcprune_runtime.command_line import Quiet, Result

Divided = Annotated[
    Parallel | None,
    typer.Option(help="What the ranks of torchrun divide: batches, layer groups, or both.", show_default="data"),
]
Staleness = Annotated[
    int | None,
    typer.Option(
        min=0, help="Steps by which critics between ranks lag behind, so that no rank waits.", show_default="0"
    ),
]
GroupsPerRank = Annotated[
    str | None,
    typer.Option(metavar="1,3", help="Layer groups of each rank.", show_default="by the time that they take"),
]
Timeout = Annotated[float | None, typer.Option(min=1, help="Seconds to wait for another rank.", show_default="120")]


@command
def train(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make. Default: runs/NAME-N.")] = None,
    data_root: DataRoot = None,
    device: TrainingDevice = "auto",
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's train.seed.")] = None,
    on_bad_image: Annotated[
        BadImage | None, typer.Option(help="A damaged image file; instead of the recipe's data.on_bad_image.")
    ] = None,
    parallel: Divided = None,
    staleness: Staleness = None,
    groups_per_rank: GroupsPerRank = None,
    timeout: Timeout = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained; write nothing.")] = False,
    quiet: Quiet = False,
) -> Result:
    """Train a recipe: one run gives every sub-model."""
    from lcprune import recipe as recipes
    from lcprune.reporting import tables

    keys = [*(overrides or []), *([] if seed is None else [f"train.seed={seed}"])]
    keys += [] if on_bad_image is None else [f"data.on_bad_image={on_bad_image}"]
    chosen = recipes.load(recipe, keys)
    if dry_run:
        costs = cost_of(chosen, data_root)
        return costs, tables.dry_run_table(costs)
    with torch_needed():
        from lcprune.pipeline import train as pipeline
    trained = pipeline.train(
        chosen,
        out=out,
        data_root=data_root,
        device=device,
        display=display(quiet),
        notice=notice(quiet),
        parallel=_parallel_options(parallel, staleness, groups_per_rank, timeout),
    )
    return trained.as_json(), tables.trained_table(trained)


@command
def resume(
    run: Run = LATEST,
    overrides: Overrides = None,
    data_root: RunDataRoot = None,
    device: TrainingDevice = "auto",
    parallel: Divided = None,
    staleness: Staleness = None,
    groups_per_rank: GroupsPerRank = None,
    timeout: Timeout = None,
    quiet: Quiet = False,
) -> Result:
    """Continue an interrupted run from its last checkpoint."""
    with torch_needed():
        from lcprune.pipeline import train as pipeline
    from lcprune.reporting import tables

    trained = pipeline.resume(
        run,
        overrides or [],
        data_root=data_root,
        device=device,
        display=display(quiet),
        notice=notice(quiet),
        parallel=_parallel_options(parallel, staleness, groups_per_rank, timeout),
    )
    return trained.as_json(), tables.trained_table(trained)


def _parallel_options(
    parallel: Parallel | None, staleness: int | None, groups_per_rank: str | None, timeout: float | None
) -> Any:
    """The `lcprune.training.parallel.ParallelOptions` that the user asks for.

    Raises:
        SetupError: If options are given, and torchrun has not started several processes.
    """
    from lcprune.training.parallel import ParallelOptions

    options = ParallelOptions(
        parallel=parallel,
        staleness=staleness,
        groups_per_rank=() if groups_per_rank is None else whole_numbers("--groups-per-rank", groups_per_rank),
        timeout_s=timeout,
    )
    if options != ParallelOptions() and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise SetupError(
            "there is only one process, and nothing to divide the work with",
            "start several: torchrun --nproc-per-node 2 -m lcprune train RECIPE --parallel layers",
        )
    return options
