"""What is installed on this machine, its problems, and how it differs from the machine of a run."""

import importlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from lcprune import __version__, runs
from lcprune.errors import INSTALL_TORCH, RunError

PACKAGES = (
    *("torch", "torchvision", "onnx", "onnxscript", "onnxruntime"),
    *("fvcore", "numpy", "scipy", "pydantic", "safetensors"),
)


def examine(run: Path | None = None) -> dict[str, Any]:
    """``found``: versions by name; ``problems``, each with its fix.

    Args:
        run: A run folder; then ``differs`` lists how this machine differs from that of its ``train``.

    Raises:
        RunError: If there is no such run, or nothing is recorded of its machine.
    """
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
    result: dict[str, Any] = {"found": found, "problems": problems}
    return result if run is None else result | {"run": str(run), "differs": _differences(run, found)}


def _differences(run: Path, found: dict[str, str]) -> list[str]:
    """Differences from the run's ``environment.json``, a line for each; what it lacks is left out.

    The same seed gives bit-identical weights only if there is none.
    """
    folder, _ = runs.open_run(run)
    content = runs.read_json(runs.require(folder, runs.ENVIRONMENT, f"lcprune train {folder / runs.RECIPE}"))
    if not isinstance(content, dict) or not isinstance(content.get("packages", {}), dict):
        raise RunError(f"{folder / runs.ENVIRONMENT} is damaged", "restore it, or train again")
    before = {name: content.get(name) for name in ("lcprune", "python", "platform", "cores")}
    before |= content.get("packages", {})
    before |= {"torch threads": content.get("threads"), "cpu capability": content.get("cpu_capability")}
    if str(content.get("device", "")).startswith("cuda ("):
        before["cuda device"] = str(content["device"]).removeprefix("cuda (").removesuffix(")")
    return [
        f"{name} was {was} and is {found[name]}"
        for name, was in before.items()
        if was is not None and name in found and str(was) != found[name]
    ]


def _package(name: str) -> tuple[str, str | None]:
    """The version of a package, and what is wrong with it. It is imported in a process of its own: it may crash."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        fix = INSTALL_TORCH if name in ("torch", "torchvision") else f"pip install {name}"
        return "missing", f"{name} is not installed: {fix}"
    tried = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return version, None
    reason = (tried.stderr.strip().splitlines() or ["it crashes"])[-1]
    fix = INSTALL_TORCH if name in ("torch", "torchvision") else f"pip install --force-reinstall {name}"
    return f"{version}, broken", f"{name} {version} cannot be imported ({reason}): {fix}"


def _torch_facts() -> dict[str, str]:
    torch = importlib.import_module("torch")
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "torch threads": str(torch.get_num_threads()),
        "cuda device": cuda,
        "mps device": "yes" if torch.backends.mps.is_available() else "none",
        "cpu capability": str(torch.backends.cpu.get_cpu_capability()),
    }
