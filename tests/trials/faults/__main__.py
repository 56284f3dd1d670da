"""Injects faults that docs/reliability.md promises to survive; under 30 minutes on 2 cores.

    python -m tests.trials.faults [--only NAME ...] [--share 0.1] [--seed 0]

prints a line for each promise; exit code 1 if one was broken. Without `--share` it also writes the rows that it made
to benchmarks/results/reliability.json and the table of docs/reliability.md.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.provenance import RESULTS, command_line, provenance, read, save
from tests.trials.faults import bit_flip, disk_full, kill, nonfinite, ranks, soak, system, training

ROOT = Path(__file__).parents[3]
RESULT = RESULTS / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
MARKS = "<!-- table of benchmarks/results/reliability.json -->", "<!-- end of the table -->"
TRIALS = {
    "kill": (kill.kill, 100, 4),
    "ranks": (ranks.ranks, 20, 2),
    "disk_full": (disk_full.disk_full, 18, 2),
    "system": (system.system, 510, 15),
    "lock": (kill.lock, 10, 1),
    "bit_flip": (bit_flip.bit_flip, 240, 26),
    "stale": (bit_flip.stale, 8, 4),
    "nonfinite": (nonfinite.nonfinite, 27, 9),
    "repeat": (soak.repeat, 12, 1),
    "soak": (soak.soak, 200_000, 0),
}
"""What is tried, how often, and how often by `make slow`, where a short soak is a test of its own; by name. The first
line of each docstring is the promise that it tries."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all trials, or those that are named."""
    parser = command_line("tests.trials.faults", __doc__)
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
    attempt, *_ = TRIALS[name]
    promise = (attempt.__doc__ or "").partition("\n")[0]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # a run writes runs/latest there
        training.prepare(Path(folder))
        started = time.perf_counter()
        found = attempt(Path(folder), trials, seed)
    row = {"name": name, "promise": promise, "trials": trials, "seed": seed, **asdict(found)}
    return {**row, "seconds": round(time.perf_counter() - started, 1)}


def write(new: Mapping[str, dict[str, Any]]) -> None:
    """Replaces these rows in the result file and in the page."""
    rows = {row["name"]: row for row in read(RESULT).get("rows", ())} | new
    ordered = [rows[name] for name in TRIALS if name in rows]
    save(RESULT, {**provenance("tests.trials.faults", 0), "rows": ordered})
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), ordered), encoding="utf-8")


def with_table(page: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The page with its table replaced."""
    lines = ["| promise | trials | failures | `--only` | seconds |", "|---|---|---|---|---|"]
    for row in rows:
        counts = f"{row['trials']:,} | {len(row['failures'])}"
        lines.append(f"| {row['promise']} | {counts} | `{row['name']}` | {row['seconds']:.0f} |")
    return tables.with_tables(page, "\n".join(lines), *MARKS)


if __name__ == "__main__":
    sys.exit(main())
