"""`lcprune train` and `lcprune resume`."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from lcprune.cli.dry_run import show_dry_run
from lcprune.cli.failing import torch_needed, user_errors
from lcprune.cli.options import (
    LATEST,
    DataRoot,
    Json,
    Overrides,
    Quiet,
    RecipeName,
    Run,
    TrainingDevice,
    data_root_or_default,
    whole_numbers,
)
from lcprune.cli.output import display, is_silent, notice, show
from lcprune.errors import SetupError
from lcprune.specs import BadImage, Parallel

Divided = Annotated[
    Parallel | None,
    typer.Option(
        help="What processes that torchrun started divide: batches, layer groups, or both.", show_default="data"
    ),
]
Staleness = Annotated[
    int | None,
    typer.Option(
        min=0, help="Steps by which critics between processes learn late, so that none waits.", show_default="0"
    ),
]
GroupsPerRank = Annotated[
    str | None,
    typer.Option(
        metavar="1,3", help="Layer groups of each process.", show_default="divided by the time that they take"
    ),
]
Timeout = Annotated[float | None, typer.Option(min=1, help="Seconds to wait for another process.", show_default="120")]


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
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe: one run gives every sub-model."""
    with user_errors(as_json):
        from lcprune import recipe as recipes

        keys = [*(overrides or []), *([] if seed is None else [f"train.seed={seed}"])]
        keys += [] if on_bad_image is None else [f"data.on_bad_image={on_bad_image}"]
        chosen = recipes.load(recipe, keys)
        if dry_run:
            show_dry_run(chosen, data_root_or_default(data_root), as_json, quiet)
            return
        with torch_needed():
            from lcprune.pipeline import train as pipeline
        result = pipeline.train(
            chosen,
            out=out,
            data_root=data_root_or_default(data_root),
            device=device,
            display=display(is_silent(quiet)),
            notice=notice(is_silent(quiet)),
            parallel=_parallel_options(parallel, staleness, groups_per_rank, timeout),
        )
        _print_trained(result, as_json, quiet)


def resume(
    run: Run = LATEST,
    overrides: Overrides = None,
    device: TrainingDevice = "auto",
    parallel: Divided = None,
    staleness: Staleness = None,
    groups_per_rank: GroupsPerRank = None,
    timeout: Timeout = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was stopped, as if it never had been."""
    with user_errors(as_json):
        with torch_needed():
            from lcprune.pipeline import train as pipeline
        result = pipeline.resume(
            run,
            overrides or [],
            device=device,
            display=display(is_silent(quiet)),
            notice=notice(is_silent(quiet)),
            parallel=_parallel_options(parallel, staleness, groups_per_rank, timeout),
        )
        _print_trained(result, as_json, quiet)


def _parallel_options(
    parallel: Parallel | None, staleness: int | None, groups_per_rank: str | None, timeout: float | None
) -> Any:
    """How processes share the work, as the user asks for it: a `lcprune.training.parallel.ParallelOptions`.

    Raises:
        SetupError: If they are to share it and there is one alone.
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
            "there is one process alone, and nothing to share the work with",
            "start several: torchrun --nproc-per-node 2 -m lcprune train RECIPE --parallel layers",
        )
    return options


def _print_trained(result: Any, as_json: bool, quiet: bool) -> None:
    if is_silent(False):
        return
    from lcprune.reporting import tables

    content = {
        "run": str(result.run),
        "iterations": result.iterations,
        "seconds": round(result.seconds, 3),
        "val_accuracy_pct": list(result.val_accuracy_pct),
        "test_accuracy_pct": list(result.test_accuracy_pct),
        "val_balanced_accuracy_pct": list(result.val_balanced_accuracy_pct),
        "test_balanced_accuracy_pct": list(result.test_balanced_accuracy_pct),
        "bad_images": len(result.bad_images),
    }
    show(content, tables.trained_table(result), as_json, quiet)
