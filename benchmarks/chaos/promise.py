"""What an attempt to break a promise found, and how it is printed."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos import tiny


@dataclass(frozen=True)
class Found:
    """Trials of one promise."""

    trials: int
    failures: tuple[str, ...]
    """What went wrong, a line for each."""
    figures: dict[str, Any] = field(default_factory=dict)
    """What was measured besides."""


Attempt = Callable[[Path, int, int], Found]
"""Of a scratch folder, a number of trials and a seed."""


def run(promise: str, module: str, attempt: Attempt, scratch: Path, trials: int, seed: int) -> dict[str, Any]:
    """Makes an attempt; a row of ``reliability.json``."""
    scratch.mkdir(parents=True, exist_ok=True)
    tiny.alone(scratch)
    started = time.perf_counter()
    found = attempt(scratch, trials, seed)
    return {
        "promise": promise,
        "command": f"python -m {module} --trials {trials} --seed {seed}",
        **asdict(found),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main(promise: str, module: str, attempt: Attempt, default: int, argv: Sequence[str] | None = None) -> int:
    """The command line of one attempt: prints its row as JSON; exit code 1 if the promise was broken."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=promise)
    parser.add_argument("--trials", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="an empty folder; left out, one that is removed afterwards")
    given = parser.parse_args(argv)
    row = in_scratch(given.scratch, lambda folder: run(promise, module, attempt, folder, given.trials, given.seed))
    print(json.dumps(row, indent=2))
    return int(bool(row["failures"]))


def in_scratch(given: Path | None, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """`work` in `given`, or in a folder that is removed afterwards."""
    import os
    import tempfile

    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        scratch = (given or Path(folder)).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        os.chdir(scratch)  # a run makes runs/latest where one is
        try:
            return work(scratch)
        finally:
            os.chdir(before)
