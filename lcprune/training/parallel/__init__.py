"""Training in several processes: data parallel, layer parallel, and both. `connect` is the way in."""

from lcprune.training.parallel.coordinator import Coordinator, ParallelOptions, connect

__all__ = ["Coordinator", "ParallelOptions", "connect"]
