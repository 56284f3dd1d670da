"""Networks: layer groups and the critics at their ends."""

from lcprune.models.build import build, initialize
from lcprune.models.critics import mixes_samples
from lcprune.models.layers import AveragePool
from lcprune.models.network import Network, Normalize
from lcprune.models.whitening import Whitening

__all__ = ["AveragePool", "Network", "Normalize", "Whitening", "build", "initialize", "mixes_samples"]
