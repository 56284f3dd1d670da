"""``metrics.jsonl``: losses, speed and accuracies on the way."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lcprune import runs
from lcprune.errors import LcpruneError
from lcprune.training.loop import Evaluation, Listener, LoggedStep

MUCH_WAITING = 0.3
"""Part of the time that training waits for images, from which on a person should know."""


def loading_hint(workers: int, *, is_cached: bool) -> str:
    """What may be changed where training waits for images; the arguments are what `data` in a recipe says."""
    cores = os.cpu_count() or 1
    ways = [] if is_cached else ["read them once: data.cache=disk"]
    if workers < cores:
        ways.append(f"read them beside training: data.workers={cores}")
    return "; ".join(ways) or "take a smaller data.resize, or store the images smaller"


class Recorder:
    """Appends to ``metrics.jsonl``, and passes everything on to the display."""

    def __init__(self, path: Path, step: int, shown: Listener, hint: str, notice: Callable[[str], None]) -> None:
        """Drops the lines of `path` after `step`: a resumed run writes them again.

        `notice` is told `hint` once, where training waits for images for more than `MUCH_WAITING` of the time.
        """
        self._path = path
        self._shown = shown
        self._hint = hint
        self._notice = notice
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            runs.write_text(path, "".join(f"{line}\n" for line in kept))

    def stepped(self, step: int, logged: LoggedStep | None) -> None:
        """See `Listener`."""
        if logged is not None:
            self._append({key: value for key, value in asdict(logged).items() if value is not None})
        self._shown.stepped(step, logged)
        if logged is not None and self._hint and (logged.wait_share or 0) > MUCH_WAITING:
            self._notice(
                f"{logged.images_per_s:.0f} images/s; training waits for images {100 * (logged.wait_share or 0):.0f} % "
                f"of the time. {self._hint}"
            )
            self._hint = ""

    def evaluated(self, evaluation: Evaluation) -> None:
        """See `Listener`."""
        line = asdict(evaluation)
        if evaluation.test_accuracy_pct is None:
            del line["test_accuracy_pct"]
        self._append(line)
        self._shown.evaluated(evaluation)

    def _append(self, line: dict[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise LcpruneError(
                f"{self._path} cannot be written: {error.strerror}", "free the disk, then resume"
            ) from None


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash
