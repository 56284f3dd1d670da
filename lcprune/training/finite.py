"""Finds numbers in a network that are NaN or infinite."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lcprune.exits import exit_names
from lcprune.models import Network


def first_not_finite(network: Network) -> str | None:
    """The shallowest weight, running statistic or gradient with a number that is NaN or infinite; None: all are finite.

    Within a step such a number spreads to all later groups: the shallowest place is the likeliest cause.
    """
    weights = [(f"the weight {name} of {part_of(name)}", tensor) for name, tensor in network.state_dict().items()]
    gradients = [
        (f"the gradient of {name} in {part_of(name)}", parameter.grad)
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    ]
    named: list[tuple[str, Tensor]] = weights + gradients
    finite = torch.stack(
        [tensor.isfinite().all() for _, tensor in named]
    ).tolist()  # one synchronisation with the device
    return next((place for (place, _), is_finite in zip(named, finite, strict=True) if not is_finite), None)


def loss_not_finite(exits: list[float], critics: list[float], sizes: Sequence[int] = ()) -> str | None:
    """The first loss that is NaN or infinite; None: all are finite.

    Args:
        exits: Of every exit, shallow first, in nats.
        critics: Losses that the critics learn from.
        sizes: Several input sizes, ascending.
    """
    names = exit_names(len(exits), sizes)
    for index, loss in enumerate(exits):
        if not math.isfinite(loss):
            return f"the loss of layer group {index + 1} ({names[index]})"
    return next((f"the loss of critic {n}" for n, loss in enumerate(critics, start=1) if not math.isfinite(loss)), None)


def part_of(name: str) -> str:
    """``layer group 2`` of ``groups.1.0.weight``, ``critic 1`` of ``critics.0.2.bias``."""
    kind, number, *_ = [*name.split("."), "", ""]
    kinds = {"groups": "layer group", "critics": "critic", "synthesizers": "synthesizer"}
    return f"{kinds[kind]} {int(number) + 1}" if kind in kinds and number.isdecimal() else "the network"
