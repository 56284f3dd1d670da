"""Cost of a network: multiply-adds and parameters, counted by fvcore for one image in eval mode."""

import warnings
from math import prod
from typing import Any

import torch
from torch import nn

from lcprune.analysis.cost import CascadeCost, ExitCost, NetworkCost
from lcprune.errors import ProfileError
from lcprune.models import Network
from lcprune.models.network import eval_mode

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fvcore calls torch.jit.script while it is imported, which is deprecated
    from fvcore.nn import FlopCountAnalysis

MAC_OPS = frozenset({"conv", "linear", "addmm", "mm", "bmm", "matmul", "einsum"})
"""Operators whose work is counted, by fvcore's names. It counts normalisation and resizing too; those are left out."""

FREE_OPS = frozenset(
    f"aten::{name}{suffix}"
    for name in (
        *("add", "sub", "mul", "div", "neg", "rsub", "pow", "sqrt", "rsqrt", "exp", "log", "abs", "sum", "mean"),
        *("sigmoid", "tanh", "gelu", "silu", "elu", "leaky_relu", "hardtanh", "hardswish", "hardsigmoid", "mish"),
        *("softmax", "log_softmax", "max_pool2d", "avg_pool2d", "adaptive_max_pool2d", "feature_dropout", "clone"),
        *("pad", "repeat", "repeat_interleave", "pixel_shuffle", "channel_shuffle", "alias", "expand_as", "flip"),
        "dropout",
    )
    for suffix in ("", "_")
)
"""Operators that fvcore does not know and that have no multiply-adds: element by element, pooling, moving memory."""


def count_macs(module: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds for one image of ``(C, H, W)``: convolutions, linear layers and matrix products.

    Half of the total of ``torch.utils.flop_counter``. The module's training mode is restored.

    Raises:
        ProfileError: If the module runs an operator whose cost is not known.
    """
    return _macs_by_module(module, image_shape)[""]


def count_params(module: nn.Module) -> int:
    """Trained numbers; one that is used in several places counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_cost(network: Network, image_shape: tuple[int, int, int]) -> NetworkCost:
    """Cost of every part and every sub-model, for one image of ``(C, H, W)``.

    Raises:
        ProfileError: If the network runs an operator whose cost is not known.
    """
    macs = _macs_by_module(network, image_shape)
    group_macs = tuple(macs[f"groups.{index}"] for index in range(len(network.groups)))
    critic_macs = tuple(macs[f"critics.{index}"] for index in range(len(network.critics)))
    cascade = CascadeCost(group_macs, critic_macs, network.starts)
    exits = tuple(
        ExitCost(
            name=name,
            exit_index=index,
            macs=cascade.kept([index]).main_macs,
            params=count_params(network.submodel(index + 1)),
            image_size=network.image_sizes[index] if network.image_sizes else None,
        )
        for index, name in enumerate(network.exit_names)
    )
    return NetworkCost(exits, cascade)


def _macs_by_module(module: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Multiply-adds of the module (under the empty name) and of everything inside it, by its dotted name."""
    parameter = next(module.parameters(), torch.empty(0))
    image = torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)
    analysis = FlopCountAnalysis(module, image).ancestor_mode("caller")
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    analysis.set_op_handle("aten::matmul", _matmul_macs)
    with eval_mode(module), torch.no_grad():
        counts = analysis.by_module_and_operator()
    if uncounted := sorted(set(analysis.unsupported_ops()) - FREE_OPS):
        raise ProfileError(
            f"the multiply-adds of {', '.join(uncounted)} cannot be counted",
            "build the network from convolutions, linear layers and matrix products",
        )
    return {name: int(sum(ops[op] for op in MAC_OPS)) for name, ops in counts.items()}


def _matmul_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Every number that comes out is one inner product. fvcore's own count fails on vectors and on broadcasting."""
    inner = inputs[0].type().sizes()[-1]
    return int(prod(outputs[0].type().sizes())) * int(inner)
