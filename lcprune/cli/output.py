"""What every command has: ``--json`` and ``--quiet``, its result printed, and progress and notices on stderr."""

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from lcprune.cli.failing import user_errors
from lcprune.cli.options import Json, Quiet

Result = tuple[Any, Any]
"""Result of a command: the data that ``--json`` prints, and the table or text that is printed without."""

_COMMON = [
    inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json),
    inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet),
]


def command(work: Callable[..., Result | None]) -> Callable[..., None]:
    """Makes a command of `work`: adds ``--json`` and ``--quiet``, prints the result, reports errors.

    Args:
        work: Declares the other options. It may declare ``as_json`` or ``quiet`` itself, to read them, and returns None
            if it has printed its result already.
    """
    signature = inspect.signature(work)
    own = signature.parameters

    @functools.wraps(work)
    def run(*, as_json: bool, quiet: bool, **options: Any) -> None:
        common = {"as_json": as_json, "quiet": quiet}
        with user_errors(as_json):
            result = work(**options, **{name: value for name, value in common.items() if name in own})
            if result is not None:
                show(*result, as_json, quiet)

    missing = [parameter for parameter in _COMMON if parameter.name not in own]
    run.__signature__ = signature.replace(parameters=[*own.values(), *missing])  # type: ignore[attr-defined]
    return run


def is_other_rank() -> bool:
    """Whether this is a rank of torchrun other than 0, which alone prints."""
    return os.environ.get("RANK", "0") != "0"


def show(content: Any, table: Any, as_json: bool, quiet: bool) -> None:
    """One result: as JSON on stdout, or as a table there."""
    if is_other_rank():
        return
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    elif not quiet:
        from lcprune.reporting.tables import print_table

        print_table(table, sys.stdout)


def notice(quiet: bool) -> Callable[[str], None]:
    """Prints messages on stderr."""
    silent = quiet or is_other_rank()
    return (lambda message: None) if silent else (lambda message: typer.echo(message, err=True))


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
