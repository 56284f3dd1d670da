"""Of `lcprune` and `lcprune-runtime`, which are released together."""

__version__ = "0.1.0"
