"""What every command has: ``--json`` and ``--quiet``, its result printed, and an error as one message and exit code."""

import errno
import functools
import inspect
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from lcprune_runtime.errors import Interrupted, LcpruneError, of_system, printable

Json = Annotated[bool, typer.Option("--json", help="Print data as JSON on stdout, everything else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and JSON.")]
Result = tuple[Any, Any] | tuple[Any, Any, LcpruneError]
"""What a command found: the data that ``--json`` prints, and the tables and lines for a person; and, where that is not
all that was asked for, the error that follows it."""

_COMMON = [
    inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json),
    inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet),
]


class _Stderr(io.TextIOWrapper):
    """Messages are lost where they cannot be written: a closed terminal or a full disk ends no training."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def run_app(app: Callable[[], object]) -> None:
    """Runs a command line. Letters that the encoding of stdout lacks are escaped; stderr takes everything."""
    if isinstance(sys.stdout, io.TextIOWrapper) and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
        encoding = sys.stderr.encoding
        sys.stderr = _Stderr(sys.stderr.buffer, encoding=encoding, errors="backslashreplace", line_buffering=True)
    try:
        app()
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # Python would flush it once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def as_user_error(caught: BaseException) -> LcpruneError:
    """What a command may end with, as an error with a fix; see `CAUGHT`.

    Raises:
        BrokenPipeError: If that is it: whoever reads stdout has seen enough, and typer ends the command.
    """
    if isinstance(caught, LcpruneError):
        return caught
    if isinstance(caught, OSError | UnicodeError | MemoryError):
        if getattr(caught, "errno", None) == errno.EPIPE:
            raise caught
        return of_system(caught)
    return Interrupted("interrupted", "run the command again")


CAUGHT = (LcpruneError, KeyboardInterrupt, OSError, UnicodeError, MemoryError)
"""What a user can fix; everything else is a bug, and keeps its traceback."""


@contextmanager
def user_errors(as_json: bool) -> Iterator[None]:
    """Turns what a user can fix into one message and an exit code."""
    try:
        yield
    except CAUGHT as caught:
        raise reported(as_user_error(caught), as_json) from None


def reported(error: LcpruneError, as_json: bool) -> typer.Exit:
    """Prints what went wrong; raise what comes back."""
    if as_json:
        content = {"kind": error.kind, "problem": error.problem, "fix": error.fix}
        with suppress(OSError):  # of a stdout on a full disk; then as text
            typer.echo(json.dumps({"error": content}))
            return typer.Exit(error.exit_code)
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
            options = {name: _at_home(value) for name, value in options.items()}
            result = work(**options, **{name: value for name, value in common.items() if name in own})
            if result is None or is_silent():
                return
            content, table, *failure = result
            show(content, table, as_json, quiet)
            for error in failure:  # stdout has the result already
                raise reported(error, as_json=False)

    missing = [parameter for parameter in _COMMON if parameter.name not in own]
    run.__signature__ = signature.replace(parameters=[*own.values(), *missing])  # type: ignore[attr-defined]
    return run


def _at_home(value: Any) -> Any:
    """A path with ``~`` as the home folder: a shell leaves it in ``--out=~/run``."""
    if isinstance(value, list):
        return [_at_home(part) for part in value]
    return type(value)(os.path.expanduser(value)) if isinstance(value, str | Path) else value


def show(content: Any, table: Any, as_json: bool, quiet: bool) -> None:
    """One result: as JSON on stdout, or as a table there.

    Raises:
        OSError: If stdout cannot be written to.
    """
    try:
        if as_json:
            typer.echo(json.dumps(content, indent=2))
        elif not quiet:
            from lcprune_runtime.tables import print_table

            print_table(table, sys.stdout)
            sys.stdout.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "stdout") from None
