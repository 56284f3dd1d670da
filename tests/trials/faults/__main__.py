"""Injects faults that docs/reliability.md promises to survive; under 30 minutes on 2 cores.

    python -m tests.trials.faults [--only NAME ...] [--share 0.1] [--seed 0]

prints a line for each promise; exit code 1 if one was broken. Without `--share` it also writes the rows that it made
to benchmarks/results/reliability.json and the table of docs/reliability.md.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.provenance import provenance
from tests.trials.faults import bit_flip, disk_full, kill, lock, nonfinite, ranks, repeat, soak, stale, training

ROOT = Path(__file__).parents[3]
RESULT = ROOT / "benchmarks" / "results" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table of benchmarks/results/reliability.json -->", "<!-- end of the table -->"
TRIALS = {
    "kill": (kill, 100),
    "ranks": (ranks, 20),
    "disk_full": (disk_full, 18),
    "lock": (lock, 10),
    "bit_flip": (bit_flip, 240),
    "stale": (stale, 8),
    "nonfinite": (nonfinite, 27),
    "repeat": (repeat, 12),
    "soak": (soak, 200_000),
}
"""Module and number of trials, by name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all trials, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.trials.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=TRIALS, default=list(TRIALS), metavar="NAME")
    parser.add_argument("--share", type=float, help="of the trials, for a quick look")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rows = {}
    for name in options.only:
        rows[name] = row = run(name, max(1, round(TRIALS[name][1] * (options.share or 1.0))), options.seed)
        print(f"{name}: {row['trials']} trials, {len(row['failures'])} failures, {row['seconds']:.0f} s", flush=True)
        for line in row["failures"]:
            print(f"  {line}", flush=True)
    if options.share is None:
        write(rows)
    return int(any(row["failures"] for row in rows.values()))


def run(name: str, trials: int, seed: int) -> dict[str, Any]:
    """One row of ``reliability.json``, from trials in a folder that is removed afterwards."""
    module, _ = TRIALS[name]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # a run writes runs/latest there
        training.prepare(Path(folder))
        started = time.perf_counter()
        found = module.attempt(Path(folder), trials, seed)
    seconds = round(time.perf_counter() - started, 1)
    return {"name": name, "promise": module.PROMISE, "trials": trials, "seed": seed, **asdict(found)} | {
        "seconds": seconds
    }


def write(new: Mapping[str, dict[str, Any]]) -> None:
    """Replaces these rows in the result file and in the page."""
    old = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
    rows = {row["name"]: row for row in old} | new
    ordered = [rows[name] for name in TRIALS if name in rows]
    RESULT.write_text(json.dumps({**provenance("tests.trials.faults", 0), "rows": ordered}, indent=2) + "\n")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), ordered), encoding="utf-8")


def with_table(page: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The page with its table replaced."""
    lines = ["| promise | trials | failures | `--only` | seconds |", "|---|---|---|---|---|"]
    for row in rows:
        counts = f"{row['trials']:,} | {len(row['failures'])}"
        lines.append(f"| {row['promise']} | {counts} | `{row['name']}` | {row['seconds']:.0f} |")
    head, _, rest = page.partition(BEGIN)
    return "\n".join([f"{head}{BEGIN}", *lines, f"{END}{rest.partition(END)[2]}"])


if __name__ == "__main__":
    sys.exit(main())
