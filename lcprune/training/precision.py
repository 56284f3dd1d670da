"""The number format of training, where a recipe leaves it to the device."""

from typing import Literal

import torch

BF16_CAPABILITY = (8, 0)
"""From which CUDA compute capability on a GPU multiplies bf16 matrices in hardware."""


def resolve(precision: Literal["fp32", "bf16", "auto"], device: torch.device) -> Literal["fp32", "bf16"]:
    """What a recipe's ``train.precision`` is on `device`: ``auto`` is bf16 where the device is built for it.

    That is a GPU of `BF16_CAPABILITY` or newer and a CPU with AMX. A CPU that knows bf16 but has no AMX gains nothing,
    and everything else emulates it.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= BF16_CAPABILITY else "fp32"
    if device.type == "cpu":
        return "bf16" if torch.cpu.get_capabilities().get("amx_bf16", False) else "fp32"
    return "fp32"
