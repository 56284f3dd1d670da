"""Networks: layer groups and the critics at their ends."""

from lcprune.models.build import build, initialize
from lcprune.models.critics import mixes_samples
from lcprune.models.network import Network, Normalize

__all__ = ["Network", "Normalize", "build", "initialize", "mixes_samples"]
