"""Reproducibility info of a run besides its recipe: versions, threads, device, number of ranks."""

import os
import platform
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Literal

import torch

from lcprune import __version__
from lcprune.training import precision
from lcprune.training.parallel import Coordinator

Precision = Literal["fp32", "bf16", "auto"]


def environment(wanted: Precision, channels_last: bool, coordinator: Coordinator) -> dict[str, Any]:
    """The content of ``environment.json``.

    Args:
        wanted: The recipe's `train.precision`.
        channels_last: The recipe's `train.channels_last`.
        coordinator: Of the ranks that train.
    """
    packages = ["torch", "torchvision", "numpy", "onnx", "onnxruntime", "fvcore"]
    packages += ["timm"] if find_spec("timm") else []
    return {
        "lcprune": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in packages},
        "command": ["lcprune", *sys.argv[1:]],
        "cores": os.cpu_count(),
        **reproducibility(wanted, channels_last, coordinator),
    }


def reproducibility(wanted: Precision, channels_last: bool, coordinator: Coordinator) -> dict[str, str | int]:
    """What bit-identical results depend on; see `environment`."""
    device = coordinator.device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "threads": torch.get_num_threads(),
        "device": f"{device.type} ({kind})",
        "memory_format": "channels_last" if channels_last else "contiguous",
        "precision": precision.resolve(wanted, device),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processes": str(coordinator),
        "torch": str(torch.__version__),  # a TorchVersion could not be read back with weights_only
    }
