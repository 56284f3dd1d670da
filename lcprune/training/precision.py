"""The floating point format of training, if the recipe leaves it to the device."""

from typing import Literal

import torch

BF16_CAPABILITY = (8, 0)
"""CUDA compute capability from which on a GPU multiplies bf16 matrices in hardware."""


def resolve(precision: Literal["fp32", "bf16", "auto"], device: torch.device) -> Literal["fp32", "bf16"]:
    """The format for ``train.precision`` on `device`: ``auto`` is bf16 if the device supports it in hardware.

    That is a GPU of `BF16_CAPABILITY` or newer, or a CPU with AMX. Without AMX, bf16 is no faster on a CPU, and all
    other devices emulate it.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= BF16_CAPABILITY else "fp32"
    if device.type == "cpu":
        return "bf16" if torch.cpu.get_capabilities().get("amx_bf16", False) else "fp32"
    return "fp32"
