"""Trains a run on after something was made from it: what was made from the older network must be refused.

python -m benchmarks.chaos.belong [--trials 8]
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.chaos import flip, promise, tiny
from lcprune import runs
from lcprune.errors import RunError
from lcprune.pipeline import stored, train
from lcprune.pipeline.verify import verify

PROMISE = "Results that were made from other weights or predictions than those that are there are refused."
MODULE = "benchmarks.chaos.belong"


def attempt(scratch: Path, trials: int, _: int) -> promise.Found:
    """Puts files of a longer training beside results of a shorter one."""
    short = flip.finished_run(scratch / "run")
    longer = scratch / "longer"
    shutil.copytree(short, longer)
    _lengthen(longer)
    cases: dict[str, Callable[[Path], object]] = {
        "the selection": lambda run: runs.require(run, runs.SELECTION, "lcprune select"),
        "the thresholds": lambda run: runs.require(run, runs.THRESHOLDS, "lcprune export"),
        "the predictions": runs.read_predictions,
        "the export": verify,
    }
    failures = []
    for number in range(trials):
        name, reads = list(cases.items())[number % len(cases)]
        run = scratch / f"mixed-{number}"
        shutil.copytree(short, run)
        reads(run)  # as it is, it is right
        taken = [runs.WEIGHTS] if name == "the predictions" else [runs.WEIGHTS, runs.PREDICTIONS]
        for file in taken:
            shutil.copy(longer / file, run / file)
            _record(run, file)
        try:
            reads(run)
            failures.append(f"{name} of the shorter training was taken")
        except RunError as error:
            if "belong" not in error.problem or "lcprune " not in error.fix:
                failures.append(f"{name}: {error}")
    shutil.copytree(short, scratch / "grown")
    _lengthen(scratch / "grown")
    if any((scratch / "grown" / name).exists() for name in (runs.SELECTION, runs.THRESHOLDS)):
        failures.append("a run made longer keeps what was decided on the shorter one")
    stored.load_network(scratch / "grown", tiny.recipe())
    return promise.Found(trials, tuple(failures))


def _lengthen(run: Path) -> None:
    tiny.go_on(run)  # finished: nothing to do
    listener = tiny.Steps()
    train.resume(
        run,
        ["train.iterations=440"],
        device="cpu",
        display=lambda *_: tiny.nullcontext(listener),
        notice=lambda _: None,
    )


def _record(run: Path, name: str) -> None:
    """As a command that was killed after it had written the file would have left the manifest."""
    manifest = json.loads((run / runs.MANIFEST).read_text())
    manifest[name] = runs.sha256(run / name)
    if name == runs.PREDICTIONS:
        manifest[runs.MADE_FROM][name] = {runs.WEIGHTS: runs.sha256(run / runs.WEIGHTS)}
    (run / runs.MANIFEST).write_text(json.dumps(manifest))


if __name__ == "__main__":
    sys.exit(promise.main(PROMISE, MODULE, attempt, 8))
