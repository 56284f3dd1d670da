"""Breaks, or tries to break, every promise of docs/reliability.md; under 30 minutes on 2 cores.

    python -m benchmarks.chaos [--only WORD ...] [--share 0.1]

writes benchmarks/results/reliability.json and the table of docs/reliability.md, and prints a line for each promise.
Exit code 1 if one was broken. `--only` makes some of the rows anew; with `--share` nothing but the lines is written.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.chaos import belong, disk_full, flip, kill, numbers, promise, ranks, same_bits, second, soak
from benchmarks.provenance import provenance

RESULT = Path(__file__).parents[1] / "results" / "reliability.json"
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- table of benchmarks/results/reliability.json -->", "<!-- end of the table -->"
ATTEMPTS = {
    "kill": (kill, 100),
    "ranks": (ranks, 20),
    "disk_full": (disk_full, 18),
    "second": (second, 10),
    "flip": (flip, 240),
    "belong": (belong, 8),
    "numbers": (numbers, 27),
    "same_bits": (same_bits, 12),
    "soak": (soak, 200_000),
}
"""Module and trials of each attempt."""


def main() -> int:
    """Runs all attempts, or those that were named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos")
    parser.add_argument("--only", nargs="*", choices=list(ATTEMPTS), default=list(ATTEMPTS))
    parser.add_argument("--share", type=float, default=1.0, help="of the trials, for a quick look")
    given = parser.parse_args()
    failed = False
    for name in given.only:
        module, trials = ATTEMPTS[name]
        count = max(1, round(trials * given.share))
        row = promise.in_scratch(
            None,
            lambda folder, module=module, count=count: promise.run(
                module.PROMISE, module.MODULE, module.attempt, folder, count, 0
            ),
        )
        print(f"{name}: {row['trials']} trials, {len(row['failures'])} failures, {row['seconds']:.0f} s", flush=True)
        for line in row["failures"]:
            print(f"  {line}", flush=True)
        failed = failed or bool(row["failures"])
        if given.share == 1.0:
            _write({**_written(), name: row})
    return int(failed)


def _written() -> dict[str, Any]:
    """The rows that are there, by the names of their attempts."""
    if not RESULT.exists():
        return {}
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    names = {module.PROMISE: name for name, (module, _) in ATTEMPTS.items()}
    return {names[row["promise"]]: row for row in rows if row["promise"] in names}


def _write(rows: dict[str, Any]) -> None:
    ordered = [rows[name] for name in ATTEMPTS if name in rows]
    RESULT.write_text(json.dumps({**provenance("benchmarks.chaos", 0), "rows": ordered}, indent=2) + "\n")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), ordered), encoding="utf-8")


def table(rows: list[dict[str, object]]) -> str:
    """The rows in Markdown."""
    lines = ["| promise | trials | failures | test | seconds |", "|---|---|---|---|---|"]
    for row in rows:
        failures = row["failures"]
        broken = len(failures) if isinstance(failures, list | tuple) else failures
        lines.append(f"| {row['promise']} | {row['trials']:,} | {broken} | `{row['command']}` | {row['seconds']:.0f} |")
    return "\n".join(lines)


def with_table(page: str, rows: list[dict[str, object]]) -> str:
    """The page with its table written anew."""
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n{table(rows)}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    sys.exit(main())
