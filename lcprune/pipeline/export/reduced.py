"""A network of reduced precision: its stages, and what they themselves make of the validation and test images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.evaluate import accuracies_pct, accuracy_pct, within
from lcprune.data.sources import Dataset, Split
from lcprune.exporters.quantize import Reduced, Reduction, Stages, reduce
from lcprune.exporters.verify import stage_logits
from lcprune.pipeline.export.request import ExportRequest
from lcprune.pipeline.export.scores import ExitScores, score_logits

SAMPLES = 256
"""Training images that the ranges of int8 activations are found on."""
HELD_OUT = 1000
"""Images, at most, on which the way to find these ranges is chosen."""
MAX_PRECISION_LOSS_PCT = 1.0
"""Where main loses more points than this to its precision, a person should know."""


@dataclass(frozen=True)
class ReducedNetwork:
    """Stages of reduced precision and their results. Exits are those of the file, main last."""

    reduced: Reduced
    scores: ExitScores
    """What the logits of these stages say."""
    agreement: dict[str, Any] | None
    """How these stages compare with float32, exit by exit; None where no images were held out."""

    def accuracies(self, split: str, exit_indices: Sequence[int], count: int) -> tuple[float | None, ...]:
        """Of all `count` exits of the network: those of the file are its `exit_indices`, the others not known."""
        accuracies = self.scores.accuracies(split)
        if not accuracies:
            return ()
        own = dict(zip(exit_indices, accuracies, strict=True))
        return tuple(own.get(index) for index in range(count))


def reduce_network(
    stages: Stages, precision: Reduction, dataset: Dataset, cost: CascadeCost, request: ExportRequest, seed: int
) -> ReducedNetwork:
    """Reduces float32 `stages` and runs them over the validation and the test images.

    Args:
        stages: Of the file, main last.
        precision: Of the result.
        dataset: What the network was trained on.
        cost: Of the cascade that the stages are.
        request: Says what is read of the logits.
        seed: Decides which training images int8 ranges are found on.

    Raises:
        ExportError: If a convolution would not be int8, or a number is too large for the precision.
    """
    order = np.random.default_rng(seed).permutation(len(dataset.train))
    held_out = dataset.val.images if len(dataset.val) else dataset.train.images[order[SAMPLES : SAMPLES + HELD_OUT]]
    reduced = reduce(stages, precision, dataset.train.images[order[:SAMPLES]], held_out[:HELD_OUT], request.int8_range)
    splits = {"val": dataset.val, "test": dataset.test}
    logits = {name: stage_logits(reduced.stages, split.images) for name, split in splits.items()}
    agreement = None
    if compared := next((name for name, split in splits.items() if len(split)), None):
        agreement = {"split": compared, **_agreement(stages, logits[compared], splits[compared])}
    labels = {name: split.labels for name, split in splits.items()}
    return ReducedNetwork(reduced, score_logits(logits, labels, cost, request), agreement)


def merged_cost(cost: CascadeCost, kept: Sequence[int]) -> CascadeCost:
    """The cascade with the early exits `kept` as one of its own: groups without an exit between them become one."""
    edges = [0, *(exit_index + 1 for exit_index in kept), len(cost.group_macs)]
    groups = tuple(sum(cost.group_macs[start:end]) for start, end in pairwise(edges))
    return replace(cost, group_macs=groups, critic_macs=tuple(cost.critic_macs[exit_index] for exit_index in kept))


def _agreement(stages: Stages, logits: np.ndarray[Any, Any], split: Split) -> dict[str, Any]:
    expected = stage_logits(stages, split.images)
    same = logits.argmax(axis=2) == expected.argmax(axis=2)
    return {
        "samples": len(split),
        "same_class_pct": [accuracy_pct(of_exit) for of_exit in same],
        "accuracy_pct": list(accuracies_pct(logits, split.labels)),
        "fp32_accuracy_pct": list(accuracies_pct(expected, split.labels)),
    }


def reduction(own: ReducedNetwork) -> dict[str, Any]:
    """What a result says of the precision."""
    return {"quantization": own.reduced.quantization.as_json(), "agreement": own.agreement}


def warn_of_loss(own: ReducedNetwork, precision: str, notice: Callable[[str], None]) -> None:
    """Says so where main loses more than `MAX_PRECISION_LOSS_PCT`."""
    if own.agreement is None:
        return
    lost_pct = own.agreement["fp32_accuracy_pct"][-1] - own.agreement["accuracy_pct"][-1]
    if not within(lost_pct, MAX_PRECISION_LOSS_PCT):
        notice(f"warning: {precision} costs {lost_pct:.2f} points of accuracy at the last exit")
