"""What a run's results depend on besides the recipe: versions, threads, the device, how many processes."""

import os
import platform
import sys
from importlib import metadata
from typing import Any

import torch

from lcprune import __version__
from lcprune.recipe import Recipe
from lcprune.training import precision


def environment(recipe: Recipe, device: torch.device, processes: str = "1") -> dict[str, Any]:
    """What a run's results depend on besides the recipe."""
    packages = ("torch", "torchvision", "numpy", "onnx", "onnxruntime", "fvcore")
    return {
        "lcprune": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in packages},
        "command": ["lcprune", *sys.argv[1:]],
        "cores": os.cpu_count(),
        **surroundings_of(recipe, device, processes),
    }


def surroundings_of(recipe: Recipe, device: torch.device, processes: str = "1") -> dict[str, str | int]:
    """What bit-equality depends on."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "threads": torch.get_num_threads(),
        "device": f"{device.type} ({kind})",
        "memory_format": "channels_last" if recipe.train.channels_last else "contiguous",
        "precision": precision.resolve(recipe.train.precision, device),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processes": processes,
        "torch": str(torch.__version__),  # a TorchVersion could not be read back with weights_only
    }
