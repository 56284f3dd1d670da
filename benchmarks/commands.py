"""The `lcprune` commands of a benchmark. What is finished is kept, so that an interrupted benchmark continues."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.provenance import Row


def lcprune(*words: str, allowed: Sequence[int] = ()) -> Row:
    """Runs a command; what it prints with ``--json``, and the command.

    Raises:
        SystemExit: If it fails with an exit code that is not `allowed`.
    """
    done = subprocess.run(
        [sys.executable, "-m", "lcprune", *words, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode not in (0, *allowed):
        raise SystemExit(f"lcprune {' '.join(words)} ended with {done.returncode}: {done.stdout}")
    return {"command": " ".join(["lcprune", *words]), **json.loads(done.stdout)}


def train(recipe: str, run: Path, data_root: Path, keys: Sequence[str] = (), *options: str) -> Row:
    """Trains on the CPU with overrides, ``KEY=VALUE`` each; resumes the run, or reads its result, if it is there."""
    words = ["train", recipe, "--out", str(run), "--data-root", str(data_root), "--device", "cpu", *settings(keys)]
    result = lcprune("resume", str(run), "--device", "cpu") if run.exists() else lcprune(*words, *options)
    return {**result, "command": " ".join(["lcprune", *words, *options])}


def settings(keys: Sequence[str]) -> list[str]:
    """``--set KEY=VALUE`` for each."""
    return [word for key in keys for word in ("--set", key)]


def once(path: Path, make: Callable[[], Row]) -> Row:
    """The result of `make`, kept in a JSON file, and read from there the next time."""
    if not path.exists():
        row = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row), encoding="utf-8")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def children_cpu_s() -> float:
    """CPU seconds of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
