"""Result files: every one names the command, the machine and the versions that its figures come from."""

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from lcprune.paper.provenance import cpu_name

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "fvcore", "numpy")


def provenance(module: str, seed: int) -> dict[str, Any]:
    """Command, seed, machine and versions; `module` is the benchmark, as in ``python -m``."""
    return {
        "command": " ".join([f"python -m {module}", *map(shlex.quote, sys.argv[1:])]),
        "seed": seed,
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS", str(_usable_cores())),
            "system": platform.platform(),
        },
        "versions": {"python": platform.python_version(), **_versions()},
    }


def save(path: Path, result: Mapping[str, Any], folders: Mapping[str, str] | None = None) -> None:
    """Writes a result file and prints its path.

    Args:
        path: Of the file; its folder is made.
        result: Its content.
        folders: Paths of this machine, and what to write in their place.
    """
    text = json.dumps(result, indent=2)
    for folder, shown in (folders or {}).items():
        text = text.replace(folder, shown)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    print(path)


def machine_slug() -> str:
    """The CPU and its cores as the name of a file: ``intel-xeon-2-cores``."""
    return slug(f"{cpu_name()} {os.cpu_count()} cores")


def slug(name: str) -> str:
    """A device's name as the name of a file, without what all of them have in it."""
    plain = re.sub(r"\((r|tm)\)|\b(cpu|processor)\b|@.*?ghz", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def _usable_cores() -> int:
    """Those that this process may run on, which may be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _versions() -> dict[str, str]:
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "not installed"  # a machine that is borrowed for its GPU may lack some
    return installed
