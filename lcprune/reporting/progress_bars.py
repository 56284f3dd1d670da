"""Progress bars of the long loops of every command but training; without torch."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lcprune_runtime.progress import Items, shown_by

REDRAW_S = 0.2


@contextmanager
def loops_shown() -> Iterator[None]:
    """Within, loops that are `tracked` have a bar on stderr while they last, if that is a terminal."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Progress(*columns, console=console, transient=True, auto_refresh=False)  # no thread beside what is timed

    def show(items: Items[Any], what: str) -> Iterator[Any]:
        if len(items) < 2:
            yield from items
            return
        task, drawn_s = bars.add_task(what, total=len(items)), time.monotonic()
        for item in items:
            yield item
            bars.advance(task)
            if time.monotonic() - drawn_s >= REDRAW_S:
                bars.refresh()
                drawn_s = time.monotonic()
        bars.remove_task(task)
        bars.refresh()

    with bars, shown_by(show):
        yield
