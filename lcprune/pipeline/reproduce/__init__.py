"""Running the paper's tables and figures: what is missing is trained, then read and held against the paper."""

from lcprune.pipeline.reproduce.command import Request, reproduce

__all__ = ["Request", "reproduce"]
