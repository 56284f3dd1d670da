"""Local critic training: one training yields a family of smaller networks, and one that stops early."""

import importlib
from typing import TYPE_CHECKING, Any

from lcprune_runtime.version import __version__

if TYPE_CHECKING:
    from lcprune_runtime.session import ProgressiveSession

__all__ = ["ProgressiveSession", "__version__"]


def __getattr__(name: str) -> Any:
    """`ProgressiveSession`, imported when it is asked for: `import lcprune` stays instant."""
    if name == "ProgressiveSession":
        return importlib.import_module("lcprune_runtime.session").ProgressiveSession
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
