"""What commands print: results, and progress and notices on stderr."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import typer

from lcprune.cli.failing import user_errors
from lcprune_runtime.command_line import Result
from lcprune_runtime.command_line import command as make_command


def command(work: Callable[..., Result | None]) -> Callable[..., None]:
    """`lcprune_runtime.command_line.command`, with one rank of torchrun's printing for all."""
    return make_command(work, user_errors, is_other_rank)


def is_other_rank() -> bool:
    """Whether this is a rank of torchrun other than 0, which alone prints."""
    return os.environ.get("RANK", "0") != "0"


def notice(quiet: bool) -> Callable[[str], None]:
    """Prints messages on stderr."""
    silent = quiet or is_other_rank()
    return (lambda message: None) if silent else (lambda message: typer.echo(message, err=True))


def loops_shown(silent: bool) -> AbstractContextManager[None]:
    """Within, long loops have a progress bar on stderr, if that is a terminal."""
    if silent or is_other_rank():
        return nullcontext()
    from lcprune.reporting import progress_bars

    return progress_bars.loops_shown()


def display(quiet: bool) -> Any:
    """Makes the progress bars of a training, see `lcprune.pipeline.train`."""
    from lcprune.reporting.progress import TrainingProgress

    silent = quiet or is_other_rank()
    hint = (
        "hint: that is long for this device. For a CPU there are smaller recipes (lcprune recipes lists them: digits "
        "takes seconds, vgg_cifar10_small minutes); on a GPU add --device cuda. "
        "Ctrl-C saves; `lcprune resume` goes on."
    )
    return lambda iterations, start, names: TrainingProgress(iterations, start, names, quiet=silent, hint=hint)
