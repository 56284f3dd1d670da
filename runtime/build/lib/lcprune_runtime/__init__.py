"""Runs models that `lcprune export` wrote: onnxruntime, NumPy and Pillow are all it needs."""

import importlib
from typing import TYPE_CHECKING, Any

from lcprune_runtime.version import __version__

if TYPE_CHECKING:
    from lcprune_runtime.session import Prediction, ProgressiveSession

__all__ = ["Prediction", "ProgressiveSession", "__version__"]


def __getattr__(name: str) -> Any:
    """The classes, imported when they are asked for: the import of the package stays instant."""
    if name in ("Prediction", "ProgressiveSession"):
        return getattr(importlib.import_module("lcprune_runtime.session"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
