"""Result files: every one names the command, the machine and the versions that its figures come from."""

import argparse
import json
import os
import platform
import re
import resource
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from lcprune import runs
from lcprune.paper.provenance import cpu_name

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]
"""A line of a result: plain numbers and names, as JSON has them."""
PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "fvcore", "numpy")


def command_line(module: str, doc: str | None, *, trains: bool = False) -> argparse.ArgumentParser:
    """The parser of a benchmark, which is described by the first line of its module; `trains` on CIFAR-10."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=(doc or "").split("\n")[0])
    if trains:
        parser.add_argument("--out", type=Path, required=True, help="folder for the runs, which are kept")
        parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder with CIFAR-10")
    return parser


def provenance(module: str, seed: int) -> Row:
    """Command, seed, machine, its load and versions; `module` is the benchmark, as in ``python -m``."""
    installed = {each.name: each.version for each in metadata.distributions()}  # a borrowed machine may lack some
    return {
        "command": " ".join([f"python -m {module}", *map(shlex.quote, sys.argv[1:])]),
        "seed": seed,
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS", str(usable_cores())),
            "system": platform.platform(),
        },
        "load": os.getloadavg()[0],
        "versions": {
            "python": platform.python_version(),
            **{name: installed.get(name, "not installed") for name in PACKAGES},
        },
    }


def read(path: Path) -> Row:
    """The content of a result file; empty where there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def save(path: Path, result: Mapping[str, Any], folders: Mapping[str, str] | None = None) -> None:
    """Writes a result file, whole or not at all, and prints its path.

    Args:
        path: Of the file; its folder is made.
        result: Its content.
        folders: Paths of this machine, and what to write in their place.
    """
    text = json.dumps(result, indent=2)
    for folder, shown in (folders or {}).items():
        text = text.replace(folder, shown)
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_text(path, text + "\n")
    print(path)


def save_part(path: Path, part: str, module: str, seed: int, rows: Sequence[Row], **more: Any) -> None:
    """Replaces a part of a result file; the others stay as they are."""
    save(path, {**read(path), part: {**provenance(module, seed), "rows": list(rows), **more}})


def slug(name: str) -> str:
    """A device's name as the name of a file, without what all of them have in it: ``intel-xeon-2-cores``."""
    plain = re.sub(r"\((r|tm)\)|\b(cpu|processor)\b|@.*?ghz", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def usable_cores() -> int:
    """Those that this process may run on, which may be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_bytes() -> int:
    """The most memory of this process that was resident at one time.

    On Linux what getrusage says holds that of the process that started this one; elsewhere there is nothing better.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        return 1024 * int(kib)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
