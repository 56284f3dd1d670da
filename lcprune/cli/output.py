"""What a command prints: its result, what it has to say beside, and how far it is."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import typer


def is_silent(quiet: bool) -> bool:
    """Whether nothing is to be said: as the user asked, or because another of torchrun's processes says it."""
    return quiet or os.environ.get("RANK", "0") != "0"


def show(content: Any, table: Any, as_json: bool, quiet: bool) -> None:
    """One result: as JSON on stdout, or as a table there."""
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    elif not quiet:
        from lcprune.reporting.tables import print_table

        print_table(table, sys.stdout)


def notice(quiet: bool) -> Callable[[str], None]:
    """Takes what is worth a line on stderr."""
    return (lambda message: None) if quiet else (lambda message: typer.echo(message, err=True))


def display(quiet: bool) -> Any:
    """Makes the progress bars of a training, see `lcprune.pipeline.train`."""
    from lcprune.reporting.progress import TrainingProgress

    hint = (
        "hint: that is long for this device. For a CPU there are smaller recipes (lcprune recipes lists them: digits "
        "takes seconds, vgg_cifar10_small minutes); on a GPU add --device cuda. "
        "Ctrl-C saves; `lcprune resume` goes on."
    )
    return lambda iterations, start, names: TrainingProgress(iterations, start, names, quiet=quiet, hint=hint)
