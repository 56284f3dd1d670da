"""Waiting for messages that come soon."""

import os
import time

import torch
from torch.distributed import Work

AWAKE_S = 0.002
"""How long a core stays awake. One that sleeps wakes late, which costs a step with many small messages some percent."""
_give_way = getattr(os, "sched_yield", None) or (lambda: time.sleep(0))


def wait(work: Work | None, device: torch.device) -> None:
    """Waits for work on `device` as ``work.wait()`` does; a CPU stays awake at first, and lets others run."""
    if work is None:
        return
    if device.type == "cpu":
        end = time.monotonic() + AWAKE_S
        while not work.is_completed() and time.monotonic() < end:
            _give_way()
    work.wait()
