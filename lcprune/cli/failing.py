"""Errors as one message and an exit code."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from lcprune.errors import INSTALL_TORCH, Interrupted, LcpruneError, SetupError
from lcprune_runtime.command_line import CAUGHT, as_user_error, reported

PATIENCE_S = 10.0
"""How long a rank waits for torchrun to end it after an error of rank 0; then the error is its own."""


@contextmanager
def user_errors(as_json: bool) -> Iterator[None]:
    """Turns an error that the user can fix into one message and an exit code."""
    try:
        yield
    except CAUGHT as caught:
        error = as_user_error(caught)
        raise (reported(error, as_json) if _tells(error) else typer.Exit(error.exit_code)) from None


def _tells(error: LcpruneError) -> bool:
    """Whether this rank prints the error: one on each machine, or the one on which connected ranks have agreed."""
    if error.reports is not None:
        return error.reports
    if isinstance(error, Interrupted):
        return os.environ.get("RANK", "0") == "0"
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(PATIENCE_S)  # torchrun ends this rank once another one has failed
    return True


@contextmanager
def torch_needed() -> Iterator[None]:
    """Names the fix of an installation in which torch cannot be imported."""
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, LcpruneError):
            raise
        raise SetupError(f"the installation does not work: {error}", INSTALL_TORCH) from None
