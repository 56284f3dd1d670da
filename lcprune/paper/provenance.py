"""Where the figures of a reproduction come from."""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from lcprune import __version__, runs
from lcprune.pipeline.metrics import seconds_trained

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "fvcore")


def provenance(folders: Sequence[Path], seeds: Sequence[int]) -> dict[str, Any]:
    """Command, machine and versions of this process; devices and seconds of the runs, also of those trained before."""
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
