"""Flips one bit in each file of a finished run, again and again: `verify` and the file's reader must find it."""

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from lcprune import runs
from lcprune.analysis.select import Budget
from lcprune.errors import RunError
from lcprune.pipeline import stored
from lcprune.pipeline.costs import costs_of
from lcprune.pipeline.export import ExportRequest, export
from lcprune.pipeline.select import select
from lcprune.pipeline.verify import verify
from lcprune.training import checkpoint
from tests.trials.faults.training import Found, train


def bit_flip(scratch: Path, trials: int, seed: int) -> Found:
    """One flipped bit in weights, predictions, selections, thresholds, exports or checkpoints is found on reading.

    Flips `trials` bits, spread over all files.
    """
    run = finished_run(scratch / "run")
    readers = _readers(run)
    draws, failures = random.Random(seed), []
    for number in range(trials):
        name = list(readers)[number % len(readers)]
        path = run / name
        whole = path.read_bytes()
        place, bit = draws.randrange(len(whole)), draws.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        for reader in (readers[name], lambda: verify(run)):
            if not _refuses(reader):
                failures.append(f"{name}, byte {place}, bit {bit} was not found")
        path.write_bytes(whole)
    if len(verify(run)["files"]) != len(readers):
        failures.append("the files that verify knows are not those that were tried")
    return Found(failures, {"files": sorted(readers)})


def finished_run(run: Path) -> Path:
    """A trained, profiled, selected and exported run."""
    train(run, "train.iterations=400", "train.evaluate_every=100")
    select(run, Budget(100.0), use_test_split=False)
    request = ExportRequest(
        progressive=True,
        exit_name=None,
        threshold="auto",
        max_drop_pct=100.0,
        confidence=None,
        exits=("1",),
        threshold_input="optional",
        use_test_split=False,
        output=None,
    )
    export(run, request, lambda _: None)
    return run


def _readers(run: Path) -> dict[str, Callable[[], object]]:
    """The function that reads each file of the run."""
    _, recipe = runs.open_run(run)
    readers: dict[str, Callable[[], object]] = {
        runs.WEIGHTS: lambda: stored.load_network(run, recipe),
        runs.PREDICTIONS: lambda: runs.read_predictions(run),
        runs.PROFILE: lambda: costs_of(run, recipe),
        runs.DATASET: lambda: stored.read_facts(run),
    }
    for name in runs.recorded_files(run):
        if name.startswith(runs.EXPORT):
            readers[name] = lambda path=run / name: runs.check_exported(path)  # as predict, bench and evaluate do
        readers.setdefault(name, lambda name=name: runs.require(run, name, "lcprune"))
    for path in (run / runs.CHECKPOINTS).glob("*.pt"):
        readers[f"{runs.CHECKPOINTS}/{path.name}"] = lambda path=path: checkpoint.load(path)
    return readers


def _refuses(reader: Callable[[], object]) -> bool:
    with contextlib.suppress(RunError):
        reader()
        return False
    return True


READERS: dict[str, Callable[[Path], object]] = {
    "the selection": lambda run: runs.require(run, runs.SELECTION, "lcprune select"),
    "the thresholds": lambda run: runs.require(run, runs.THRESHOLDS, "lcprune export"),
    "the predictions": runs.read_predictions,
    "the export": verify,
}


def stale(scratch: Path, trials: int, _: int) -> Found:
    """Results that were made from other weights or predictions than those that are there are refused.

    Puts files of a longer training beside results of a shorter one, which must be refused.
    """
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
