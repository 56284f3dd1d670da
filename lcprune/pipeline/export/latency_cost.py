"""How long an image takes to every exit of a cascade, measured: a cost for thresholds in place of MACs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from lcprune.analysis.cost import paid_at_exits
from lcprune.exporters.float_precisions import Stages
from lcprune.exporters.latency import exit_latencies
from lcprune.exporters.parts import reads_image
from lcprune.exporters.progressive import stitch
from lcprune.exporters.stages import cascade_stages
from lcprune.models import Network
from lcprune_runtime.session import NEVER

RUNS = 200
SHORTEST_MS = 1e-6
"""A group takes some time, whatever was measured."""


@dataclass(frozen=True)
class CascadeLatency:
    """Milliseconds of the parts of a cascade, for one image."""

    group_ms: tuple[float, ...]
    """Of every group, ``(K,)``."""
    critic_ms: tuple[float, ...]
    """Of every critic with its decision, ``(K - 1,)``."""
    starts: tuple[int, ...] = (0,)
    """See `CascadeCost.starts`."""

    def exit_ms(self, kept: Sequence[int] | None = None) -> tuple[float, ...]:
        """As `CascadeCost.exit_macs`."""
        return paid_at_exits(self.group_ms, self.critic_ms, kept, self.starts)


def cascade_latency(network: Network, images: np.ndarray[Any, Any]) -> CascadeLatency:
    """Milliseconds of every group and every critic: batch 1, one thread, in onnxruntime on this machine.

    Let T_k be the time of a row that leaves the whole cascade at exit k, and S_k that of sub-model k alone. Then
    D_k = T_k - S_k is what the critics before exit k take with their decisions, and the decision at exit k itself,
    which main has not. So D_(k+1) - D_k is critic k with its decision, and what is left of T_k - T_(k-1) is group k.
    With several input sizes T_k counts from the end of the size before, whose last exit has a decision and no critic.

    Args:
        network: All its exits are measured.
        images: For the check of the exported stages, ``(N, C, H, W)``.
    """
    stages, _ = cascade_stages(network, range(len(network.critics)), images)
    alone = [cascade_stages(network.truncated(k + 1), (), images)[0] for k in range(len(network.groups))]
    to_exit, *own = medians_ms([stages, *alone], RUNS)
    return split_latency(to_exit, [of_model[0] for of_model in own], network.starts)


def split_latency(to_exit: Sequence[float], alone: Sequence[float], starts: tuple[int, ...] = (0,)) -> CascadeLatency:
    """Times of groups and critics out of those of whole graphs; see `cascade_latency`.

    Args:
        to_exit: T_k, main last.
        alone: S_k, main last.
        starts: See `CascadeCost.starts`.
    """
    first = [max(start for start in starts if start <= k) for k in range(len(alone))]
    before = [to_exit[start - 1] if start else 0.0 for start in first]
    more = [path - earlier - own for path, earlier, own in zip(to_exit, before, alone, strict=True)]
    decision = more[0]
    more[-1] += decision  # main has none of its own
    critics = tuple(max(decision if k in starts else more[k] - more[k - 1], 0.0) for k in range(1, len(more)))
    steps = [after - before for before, after in pairwise([0.0, *to_exit])]
    groups = tuple(max(step - critic, SHORTEST_MS) for step, critic in zip(steps, [*critics, 0.0], strict=True))
    return CascadeLatency(groups, critics)


def stages_latency(stages: Stages) -> CascadeLatency:
    """Milliseconds of every stage of a cascade whose exits are settled: a critic's time is within its group's."""
    (to_exit,) = medians_ms([stages], RUNS)
    groups = tuple(max(after - before, SHORTEST_MS) for before, after in pairwise([0.0, *to_exit]))
    starts = tuple(k for k in range(len(stages)) if reads_image(stages, k))
    return CascadeLatency(groups, (0.0,) * (len(stages) - 1), starts)


def medians_ms(cascades: Sequence[Stages], runs: int) -> list[list[float]]:
    """Milliseconds to every exit of each cascade, main last, measured in turn: batch 1, one thread."""
    models = [
        stitch(stages, (NEVER,) * (len(stages) - 1), "required") if len(stages) > 1 else stages[0]
        for stages in cascades
    ]
    return [[latency.median_ms for latency in of_model] for of_model in exit_latencies(models, runs)]
