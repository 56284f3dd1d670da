"""What a recipe would train, without training it."""

from pathlib import Path
from typing import Any

from lcprune.cli.failing import torch_needed
from lcprune.cli.output import show


def costs(recipe: Any, data_root: Path = Path("data")) -> Any:
    """What `--dry-run` says about a recipe, or the error of one whose network cannot be built."""
    with torch_needed():
        from lcprune.pipeline import dry_run as pipeline
    return pipeline.dry_run(recipe, data_root)


def show_dry_run(recipe: Any, data_root: Path, as_json: bool, quiet: bool) -> None:
    """What `lcprune train --dry-run` prints."""
    from lcprune.reporting import tables

    result = costs(recipe, data_root)
    show(result, tables.dry_run_table(result), as_json, quiet)
