"""What this machine has, and what is wrong with the installation."""

import importlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

from lcprune import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "fvcore",
    "numpy",
    "scipy",
    "pydantic",
    "safetensors",
)

TOGETHER = (
    "install torch and torchvision together, from the same index, into a fresh virtual environment: "
    "python -m venv .venv && .venv/bin/pip install torch torchvision"
)


def examine() -> dict[str, Any]:
    """What was ``found``, by name, and the ``problems``, each with its mend."""
    found: dict[str, str] = {
        "lcprune": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": str(os.cpu_count()),
    }
    problems = []
    for name in PACKAGES:
        found[name], problem = _package(name)
        problems += [problem] if problem else []
    if not any("torch" in problem for problem in problems):
        found |= _torch_facts()
    return {"found": found, "problems": problems}


def _package(name: str) -> tuple[str, str | None]:
    """The version of a package, and what is wrong with it. It is imported in a process of its own: it may crash."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        mend = TOGETHER if name in ("torch", "torchvision") else f"pip install {name}"
        return "missing", f"{name} is not installed: {mend}"
    tried = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return version, None
    reason = (tried.stderr.strip().splitlines() or ["it crashes"])[-1]
    mend = TOGETHER if name in ("torch", "torchvision") else f"pip install --force-reinstall {name}"
    return f"{version}, broken", f"{name} {version} cannot be imported ({reason}): {mend}"


def _torch_facts() -> dict[str, str]:
    torch = importlib.import_module("torch")
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "torch threads": str(torch.get_num_threads()),
        "cuda device": cuda,
        "mps device": "yes" if torch.backends.mps.is_available() else "none",
        "cpu capability": str(torch.backends.cpu.get_cpu_capability()),
    }
