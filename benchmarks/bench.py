"""The whole suite on a CPU: each case in a process of its own, all figures in one file.

    python -m benchmarks.bench [--only PART ...] [--out FOLDER]

Writes ``benchmarks/results/<machine>.json``. With ``--only`` the other parts of the file stay as they are. A case that
fails is named at the end; the others are kept. What one case leaves behind in the allocator has changed the result of
the next one before, so that each has its process.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import memory, startup, throughput
from benchmarks.case import Row
from benchmarks.networks import SEED
from benchmarks.provenance import RESULTS, machine_slug, provenance

Cases = Mapping[str, Callable[[], list[Row]]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the parts and writes their result; or one case in this process, and prints its rows."""
    parts = all_parts()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts), metavar="PART", help=", ".join(parts))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--case", nargs=2, metavar=("PART", "NAME"), help="print the rows of one case as JSON")
    options = parser.parse_args(arguments)
    if options.case:
        part, name = options.case
        print(json.dumps(parts[part][name]()))
        return
    path = options.out / f"{machine_slug()}.json"
    failed = run({part: list(parts[part]) for part in options.only}, path)
    print(path)
    if failed:
        raise SystemExit("failed: " + "; ".join(failed))


def all_parts() -> dict[str, Cases]:
    """The cases of every part, by name."""
    cpu = torch.device("cpu")
    of_memory = memory.cases(cpu)
    return {
        "speed": throughput.overhead_cases(cpu),
        "methods": throughput.method_cases(cpu),
        "memory": {name: case for name, case in of_memory.items() if name.startswith("bytes")},
        "memory time": {name: case for name, case in of_memory.items() if name.startswith("time")},
        "analysis": {"ImageNet's size": _analysis},
        "start": {"commands": startup.measure_commands},
        "export": {"progressive": startup.measure_export},
    }


def run(parts: Mapping[str, Sequence[str]], path: Path) -> list[str]:
    """Runs the named cases and writes `path` after each part; returns the cases that failed."""
    failed: list[str] = []
    for part, names in parts.items():
        found: list[Row] = []
        for name in names:
            start = time.perf_counter()
            print(f"{part}: {name} ...", end=" ", flush=True)
            rows = _rows(part, name)
            print(f"{time.perf_counter() - start:.0f} s" if rows else "FAILED", flush=True)
            found += rows
            failed += [] if rows else [f"{part}: {name}"]
        if found:
            result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            result[part] = {**provenance("benchmarks.bench", SEED), "load": os.getloadavg()[0], "rows": found}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return failed


def _rows(part: str, name: str) -> list[Row]:
    """What a case prints; nothing if it fails, and then its errors are on stderr."""
    words = [sys.executable, "-m", "benchmarks.bench", "--case", part, name]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    return [] if done.returncode else list(json.loads(done.stdout))


def _analysis() -> list[Row]:
    """In a process that has imported nothing else, for its peak memory."""
    words = [sys.executable, "-m", "benchmarks.analysis_scale", "--json"]
    row = json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return [{key: value for key, value in row.items() if key not in provenance("", SEED)}]


if __name__ == "__main__":
    main()
