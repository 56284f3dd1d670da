"""``metrics.jsonl``: losses, speed and accuracies during training, written and read."""

import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lcprune import runs
from lcprune.errors import LcpruneError
from lcprune.training.loop import Evaluation, Listener, LoggedStep

MUCH_WAITING = 0.3
"""Share of the time spent waiting for images above which a notice is given."""


def loading_hint(workers: int, *, is_cached: bool) -> str:
    """What to change where training waits for images; the arguments are those of a recipe's ``data``."""
    cores = os.cpu_count() or 1
    ways = [] if is_cached else ["read them once: data.cache=disk"]
    if workers < cores:
        ways.append(f"read them beside training: data.workers={cores}")
    return "; ".join(ways) or "take a smaller data.resize, or store the images smaller"


class Recorder:
    """Appends to ``metrics.jsonl``, and passes everything on to the display."""

    def __init__(self, path: Path, step: int, shown: Listener, hint: str, notice: Callable[[str], None]) -> None:
        """Removes the lines of `path` after `step`: a resumed run writes them again.

        `notice` gets `hint` once, when training waits for images for more than `MUCH_WAITING` of the time.
        """
        self._path = path
        self._shown = shown
        self._hint = hint
        self._notice = notice
        if path.exists():
            kept = [line for line in read_metrics(path) if line.get("step", math.inf) <= step]
            runs.write_text(path, "".join(f"{json.dumps(line)}\n" for line in kept))

    def stepped(self, step: int, logged: LoggedStep | None) -> None:
        """See `Listener`."""
        if logged is not None:
            self._append(asdict(logged))
        self._shown.stepped(step, logged)
        if logged is not None and self._hint and (logged.wait_share or 0) > MUCH_WAITING:
            self._notice(
                f"{logged.images_per_s:.0f} images/s; training waits for images {100 * (logged.wait_share or 0):.0f} % "
                f"of the time. {self._hint}"
            )
            self._hint = ""

    def evaluated(self, evaluation: Evaluation) -> None:
        """See `Listener`."""
        self._append(asdict(evaluation))
        self._shown.evaluated(evaluation)

    def _append(self, values: dict[str, Any]) -> None:
        line = json.dumps({key: value for key, value in values.items() if value is not None})
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise LcpruneError(
                f"{self._path} cannot be written: {error.strerror}", "free the disk, then resume"
            ) from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, without those that a crash cut short; none where there is no file."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(ValueError):
            lines.append(json.loads(text))
    return lines


def seconds_trained(folder: Path) -> float:
    """Time that a run spent in training steps, over all sessions, from the logged images per second."""
    batch_size = runs.open_run(folder)[1].data.batch_size
    seconds, before = 0.0, 0
    for line in read_metrics(folder / runs.METRICS):
        if line.get("images_per_s"):
            seconds += (line["step"] - before) * batch_size / line["images_per_s"]
            before = line["step"]
    return seconds
