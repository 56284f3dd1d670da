"""Running the paper's tables and figures: what is missing is trained, then read and held against the paper."""

from lcprune.pipeline.reproduce.command import Request, help_reproduce, reproduce

__all__ = ["Request", "help_reproduce", "reproduce"]
