"""What every command has: ``--json`` and ``--quiet``, its result printed, and an error as one message and exit code."""

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any

import typer

from lcprune_runtime.errors import Interrupted, LcpruneError, printable

Json = Annotated[bool, typer.Option("--json", help="Print data as JSON on stdout, everything else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and JSON.")]
Result = tuple[Any, Any]
"""What a command found: the data that ``--json`` prints, and the tables and lines for a person."""

_COMMON = [
    inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json),
    inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet),
]


@contextmanager
def user_errors(as_json: bool) -> Iterator[None]:
    """Turns what a user can fix into one message and an exit code."""
    try:
        yield
    except LcpruneError as error:
        raise reported(error, as_json) from None
    except KeyboardInterrupt:
        raise reported(Interrupted("interrupted", "run the command again"), as_json) from None


def reported(error: LcpruneError, as_json: bool) -> typer.Exit:
    """Prints what went wrong; raise what comes back."""
    if as_json:
        content = {"kind": error.kind, "problem": error.problem, "fix": error.fix}
        typer.echo(json.dumps({"error": content}))
    else:
        typer.echo(printable(str(error) if isinstance(error, Interrupted) else f"error: {error}"), err=True)
    return typer.Exit(error.exit_code)


def command(
    work: Callable[..., Result | None],
    errors: Callable[[bool], AbstractContextManager[None]] = user_errors,
    is_silent: Callable[[], bool] = lambda: False,
) -> Callable[..., None]:
    """Makes a command of `work`: adds ``--json`` and ``--quiet``, prints the result, reports errors.

    Args:
        work: Declares the other options. It may declare ``as_json`` or ``quiet`` itself, to read them, and returns None
            if it has printed its result already.
        errors: What `work` runs in, given whether the user asked for JSON.
        is_silent: Whether this process leaves it to another one to print.
    """
    signature = inspect.signature(work)
    own = signature.parameters

    @functools.wraps(work)
    def run(*, as_json: bool, quiet: bool, **options: Any) -> None:
        common = {"as_json": as_json, "quiet": quiet}
        with errors(as_json):
            result = work(**options, **{name: value for name, value in common.items() if name in own})
            if result is not None and not is_silent():
                show(*result, as_json, quiet)

    missing = [parameter for parameter in _COMMON if parameter.name not in own]
    run.__signature__ = signature.replace(parameters=[*own.values(), *missing])  # type: ignore[attr-defined]
    return run


def show(content: Any, table: Any, as_json: bool, quiet: bool) -> None:
    """One result: as JSON on stdout, or as a table there."""
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    elif not quiet:
        from lcprune_runtime.tables import print_table

        print_table(table, sys.stdout)
