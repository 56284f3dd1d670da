"""Where the figures of a reproduction come from."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from lcprune import __version__, runs

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "fvcore")


def provenance(folders: Sequence[Path], seeds: Sequence[int]) -> dict[str, Any]:
    """Command, machine and versions of this process; devices and seconds of the runs, whoever trained them."""
    seconds = [seconds_trained(folder) for folder in folders]
    return {
        "command": shlex.join(["lcprune", *sys.argv[1:]]),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "lcprune": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
        "seeds": list(seeds),
        "runs": len(folders),
        "seconds_trained": round(sum(seconds), 1),
        "trained_on": sorted({description for folder in folders for description in _environment(folder)}),
    }


def seconds_trained(folder: Path) -> float:
    """Time that a run spent in training steps, over all sessions, from the speed in its log."""
    path = folder / runs.METRICS
    batch_size = runs.open_run(folder)[1].data.batch_size
    total, before = 0.0, 0
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        logged = json.loads(line)
        if logged.get("images_per_s"):
            total += (logged["step"] - before) * batch_size / logged["images_per_s"]
            before = logged["step"]
    return total


def _environment(folder: Path) -> list[str]:
    """``cpu (x86_64), 2 threads, torch 2.15.0``, where the run was started."""
    path = folder / runs.ENVIRONMENT
    if not path.exists():
        return []
    content = runs.read_json(path)
    return [f"{content['device']}, {content['threads']} threads, torch {content['torch']}, {content['precision']}"]


def cpu_name() -> str:
    """The CPU's own name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
