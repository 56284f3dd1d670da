"""The whole suite on a CPU: each case in a process of its own, all figures in one file, and a page that explains them.

    python -m benchmarks.bench [--only PART ...] [--out FOLDER]

Writes ``benchmarks/results/<machine>.json`` and ``.md``. With ``--only`` the other parts of the file stay as they are.
A case that fails is named at the end; the others are kept.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import markdown, memory, throughput
from benchmarks.case import Row
from benchmarks.networks import SEED
from benchmarks.provenance import machine_slug, provenance

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Case:
    """A command that prints its rows as JSON."""

    part: str
    module: str
    argument: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the parts and writes their result."""
    everything = all_cases()
    parts = list(dict.fromkeys(case.part for case in everything))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=", ".join(parts))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    path = options.out / f"{machine_slug()}.json"
    failed = run([case for case in everything if case.part in options.only], path)
    print(f"{path}\n{path.with_suffix('.md')}")
    if failed:
        raise SystemExit("failed: " + "; ".join(failed))


def all_cases() -> list[Case]:
    """All parts in the order of the page."""
    part_of = {"overhead": "speed", "methods": "methods", "bytes": "memory", "time": "memory time"}
    of_throughput = [Case(part_of[_kind(name)], "throughput", name) for name in throughput.cases()]
    of_memory = [Case(part_of[_kind(name)], "memory", name) for name in memory.cases(torch.device("cpu"))]
    return [
        *of_throughput,
        *of_memory,
        Case("analysis", "analysis_scale", "--json"),
        Case("start", "startup", "commands"),
        Case("export", "startup", "export"),
    ]


def run(cases: Sequence[Case], path: Path) -> list[str]:
    """Runs `cases` and writes `path` after each part that is complete; says which cases failed."""
    failed: list[str] = []
    by_part: dict[str, list[Row]] = {}
    for number, case in enumerate(cases, start=1):
        start = time.perf_counter()
        print(f"[{number}/{len(cases)}] {case.module}: {case.argument} ...", end=" ", flush=True)
        rows = _rows(case)
        print(f"{time.perf_counter() - start:.0f} s" if rows else "FAILED", flush=True)
        if rows:
            by_part.setdefault(case.part, []).extend(rows)
        else:
            failed.append(f"{case.module} {case.argument}")
        if all(later.part != case.part for later in cases[number:]) and case.part in by_part:
            _write(path, case.part, by_part[case.part])
    return failed


def _rows(case: Case) -> list[Row]:
    """What a case prints; nothing if it fails, and then its errors are on stderr."""
    words = [sys.executable, "-m", f"benchmarks.{case.module}", case.argument]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return []
    printed = json.loads(done.stdout)
    if isinstance(printed, list):
        return printed
    stated_once = provenance("", SEED)
    return [{key: value for key, value in printed.items() if key not in stated_once}]


def _write(path: Path, part: str, rows: list[Row]) -> None:
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    result[part] = {**provenance("benchmarks.bench", SEED), "load": os.getloadavg()[0], "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown.page(result), encoding="utf-8")


def _kind(name: str) -> str:
    return name.partition(":")[0]


if __name__ == "__main__":
    main()
