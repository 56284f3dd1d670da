"""Flips one bit in each file of a finished run, again and again: `verify` and whoever reads the file must see it.

python -m benchmarks.chaos.flip [--trials 240] [--seed 0]
"""

import random
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.chaos import promise, tiny
from lcprune import runs
from lcprune.analysis.select import Budget
from lcprune.errors import RunError
from lcprune.pipeline import stored
from lcprune.pipeline.export import ExportRequest, export
from lcprune.pipeline.profile import costs_of
from lcprune.pipeline.select import select
from lcprune.pipeline.verify import verify
from lcprune.training import checkpoint

PROMISE = "One flipped bit in weights, predictions, selections, thresholds, exports or checkpoints is found on reading."
MODULE = "benchmarks.chaos.flip"


def attempt(scratch: Path, trials: int, seed: int) -> promise.Found:
    """Flips `trials` bits, spread over all files."""
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
                failures.append(f"{name}, byte {place}, bit {bit} was not seen")
        path.write_bytes(whole)
    if len(verify(run)["files"]) != len(readers):
        failures.append("the files that verify knows are not those that were tried")
    return promise.Found(trials, tuple(failures), {"files": sorted(readers)})


def finished_run(run: Path) -> Path:
    """A trained, profiled, selected and exported run."""
    tiny.go_on(run, "train.iterations=400", "train.evaluate_every=100")
    select(run, Budget(100.0), use_test_split=False)
    request = ExportRequest(
        progressive=True,
        exit_name=None,
        threshold="auto",
        max_drop_pct=100.0,
        confidence=None,
        exits=(1,),
        threshold_input="optional",
        use_test_split=False,
        output=None,
    )
    export(run, request, lambda _: None)
    return run


def _readers(run: Path) -> dict[str, Callable[[], object]]:
    """What reads each file of the run."""
    _, recipe = runs.open_run(run)
    known: dict[str, Callable[[], object]] = {
        runs.WEIGHTS: lambda: stored.load_network(run, recipe),
        runs.PREDICTIONS: lambda: runs.read_predictions(run),
        runs.PROFILE: lambda: costs_of(run, recipe),
        runs.DATASET: lambda: stored.read_facts(run),
    }
    for name in runs.recorded_files(run):
        if name.startswith(runs.EXPORT):
            known[name] = lambda path=run / name: runs.check_exported(path)  # as predict, bench and evaluate do
        known.setdefault(name, lambda name=name: runs.require(run, name, "lcprune"))
    for path in (run / runs.CHECKPOINTS).glob("*.pt"):
        known[f"{runs.CHECKPOINTS}/{path.name}"] = lambda path=path: checkpoint.load(path)
    return known


def _refuses(reader: Callable[[], object]) -> bool:
    try:
        reader()
    except RunError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(promise.main(PROMISE, MODULE, attempt, 240))
