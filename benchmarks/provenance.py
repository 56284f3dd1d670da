"""Where a figure comes from: the command, the machine and the versions that every result file names."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "fvcore", "numpy")


def provenance(module: str, seed: int) -> dict[str, Any]:
    """Command, seed, machine and versions; `module` is the benchmark, as in ``python -m``."""
    return {
        "command": " ".join([f"python -m {module}", *sys.argv[1:]]),
        "seed": seed,
        "machine": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
            "system": platform.platform(),
        },
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
