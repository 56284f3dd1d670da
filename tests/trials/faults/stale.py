"""Trains a run further after results were made from it: results of the older network must be refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from lcprune import runs
from lcprune.errors import RunError
from lcprune.pipeline.verify import verify
from tests.trials.faults.bit_flip import finished_run
from tests.trials.faults.training import Found, train

PROMISE = "Results that were made from other weights or predictions than those that are there are refused."
READERS: dict[str, Callable[[Path], object]] = {
    "the selection": lambda run: runs.require(run, runs.SELECTION, "lcprune select"),
    "the thresholds": lambda run: runs.require(run, runs.THRESHOLDS, "lcprune export"),
    "the predictions": runs.read_predictions,
    "the export": verify,
}


def attempt(scratch: Path, trials: int, _: int) -> Found:
    """Puts files of a longer training beside results of a shorter one."""
    short, longer = finished_run(scratch / "run"), scratch / "longer"
    shutil.copytree(short, longer)
    train(longer, longer=["train.iterations=440"])
    failures = []
    for number in range(trials):
        name, read = list(READERS.items())[number % len(READERS)]
        run = scratch / f"mixed-{number}"
        shutil.copytree(short, run)
        read(run)  # which is consistent
        for file in [runs.WEIGHTS] if name == "the predictions" else [runs.WEIGHTS, runs.PREDICTIONS]:
            shutil.copy(longer / file, run / file)
            _record(run, file)
        try:
            read(run)
            failures.append(f"{name} of the shorter training was taken")
        except RunError as error:
            if "belong" not in error.problem or "lcprune " not in error.fix:
                failures.append(f"{name}: {error}")
    if any((longer / name).exists() for name in (runs.SELECTION, runs.THRESHOLDS)):
        failures.append("a run that was made longer keeps what was decided on the shorter one")
    return Found(failures)


def _record(run: Path, name: str) -> None:
    """Leaves the manifest as a command that was killed after it had written the file."""
    manifest = json.loads((run / runs.MANIFEST).read_text())
    manifest[name] = runs.sha256(run / name)
    if name == runs.PREDICTIONS:
        manifest[runs.MADE_FROM][name] = {runs.WEIGHTS: runs.sha256(run / runs.WEIGHTS)}
    (run / runs.MANIFEST).write_text(json.dumps(manifest))
