"""`lcprune predict` and `lcprune bench`: those of `lcprune_runtime`, after a look at the checksums of the run."""

import functools
from pathlib import Path
from typing import Any

from lcprune.cli.output import command
from lcprune_runtime import commands
from lcprune_runtime.command_line import Result


@command
@functools.wraps(commands.predict)
def predict(model: Path, **options: Any) -> Result:
    """As in the runtime."""
    from lcprune import runs

    runs.check_exported(model)
    return commands.predict(model, **options)


@command
@functools.wraps(commands.bench)
def bench(models: list[Path], **options: Any) -> Result:
    """As in the runtime."""
    from lcprune import runs

    for path in models:
        runs.check_exported(path)
    return commands.bench(models, **options)
