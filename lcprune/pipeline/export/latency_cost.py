"""How long a row takes to every exit of a cascade, measured: a cost for the search of thresholds in place of MACs."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from lcprune.analysis.evaluate import CascadeCost
from lcprune.export.latency import Latency, exit_latencies
from lcprune.export.progressive import cascade_stages, stitch, submodel_stages
from lcprune.export.quantize import Stages
from lcprune.export.session import NEVER
from lcprune.models import Network

RUNS = 200
NS_PER_MS = 1_000_000
"""Costs are whole numbers, so that times are counted in nanoseconds."""


def cascade_latency(network: Network, images: np.ndarray[Any, Any]) -> CascadeCost:
    """Nanoseconds of every group and every critic: batch 1, one thread, in onnxruntime on this machine.

    Let T_k be the time of a row that leaves the whole cascade at exit k, and S_k that of sub-model k alone. Then
    D_k = T_k - S_k is what the critics before exit k take with their decisions, and the decision at exit k itself,
    which main has not. So D_(k+1) - D_k is critic k with its decision, and what is left of T_k - T_(k-1) is group k.

    Args:
        network: All its exits are measured.
        images: For the check of the exported stages, ``(N, C, H, W)``.
    """
    kept = range(len(network.critics))
    stages = cascade_stages(network, kept, images)
    alone = [submodel_stages(network, k, images)[0] for k in range(1, len(network.groups) + 1)]
    times_ns = _nanoseconds(exit_latencies(_stitched(stages), alone, RUNS))
    return split_latency(times_ns[: len(stages)], times_ns[len(stages) :])


def split_latency(to_exit: Sequence[int], alone: Sequence[int]) -> CascadeCost:
    """Times of groups and critics out of those of whole graphs; see `cascade_latency`.

    Args:
        to_exit: T_k, main last.
        alone: S_k, main last.
    """
    more = [path - submodel for path, submodel in zip(to_exit, alone, strict=True)]
    more[-1] += more[0]  # main has no decision of its own
    critics = tuple(max(after - before, 0) for before, after in pairwise(more))
    steps = [after - before for before, after in pairwise([0, *to_exit])]
    groups = tuple(max(step - critic, 1) for step, critic in zip(steps, [*critics, 0], strict=True))
    return CascadeCost(groups, critics)


def stages_latency(stages: Stages) -> CascadeCost:
    """Nanoseconds of every stage of a cascade whose exits are settled: a critic's time is within its group's."""
    to_exit = _nanoseconds(exit_latencies(_stitched(stages), (), RUNS))
    groups = tuple(max(after - before, 1) for before, after in pairwise([0, *to_exit]))
    return CascadeCost(groups, (0,) * (len(stages) - 1))


def _stitched(stages: Stages) -> Any:
    return stitch(stages, (NEVER,) * (len(stages) - 1), "required")


def _nanoseconds(latencies: Sequence[Latency]) -> list[int]:
    return [round(latency.median_ms * NS_PER_MS) for latency in latencies]
