"""The stages of a file in the precision that was asked for, and their results on validation and test images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.evaluate import accuracy_pct, drop_pct, drop_se_pct, within
from lcprune.data.sources import Dataset
from lcprune.exporters.float_precisions import Stages
from lcprune.exporters.quantize import Quantization, reduce
from lcprune.exporters.verify import Reference, stage_logits
from lcprune.pipeline.export.request import ExportRequest
from lcprune.pipeline.export.scores import ExitScores, score_logits

SAMPLES = 256
"""Training images that the ranges of int8 activations are found on."""
MAX_PRECISION_LOSS_PCT = 0.2
"""There is a notice where the last exit loses more points to its precision, and more than two standard errors."""


@dataclass(frozen=True)
class ExportedCascade:
    """Stages of a file and their results. Exits are those of the file."""

    stages: Stages
    reference: Reference
    scores: ExitScores
    """Of the logits of these stages; drops are measured from float32's main."""
    quantization: Quantization | None = None
    """How float32 was reduced; None in float32."""
    agreement: dict[str, Any] | None = None
    """How these stages compare with float32, exit by exit; None in float32, or where no images were held out."""


def reduced(
    fp32: ExportedCascade,
    classes: Mapping[str, np.ndarray[Any, Any]],
    dataset: Dataset,
    cost: CascadeCost,
    request: ExportRequest,
    seed: int,
) -> ExportedCascade:
    """`fp32` in the precision of `request`, with the results of its own logits.

    Args:
        fp32: As it was trained.
        classes: What float32 says at each of its exits, ``(exits, N)``, of ``val`` and ``test``.
        dataset: What it was trained on.
        cost: Of its exits alone.
        request: Names the precision and the criterion.
        seed: Of the choice of training images that int8 ranges are found on.

    Raises:
        ExportError: If a convolution would not be int8, or a number is too large for the precision.
        ValueError: If the precision is float32.
    """
    if request.precision == "fp32":
        raise ValueError("fp32 is not reduced")
    splits = {"val": dataset.val, "test": dataset.test}
    some = np.random.default_rng(seed).permutation(len(dataset.train))[:SAMPLES]
    in_fewer_bits = reduce(fp32.stages, request.precision, dataset.train.images[some], request.int8_range)
    stages, quantization = in_fewer_bits.stages, in_fewer_bits.quantization
    logits = {name: stage_logits(stages, split.images) for name, split in splits.items()}
    same = {name: of_split.argmax(axis=2) == classes[name] for name, of_split in logits.items()}  # (exits, N)
    labels = {name: split.labels for name, split in splits.items()}
    scores = score_logits(logits, labels, cost, request).against(fp32.scores)
    agreement: dict[str, Any] | None = None
    if compared := next((name for name, split in splits.items() if len(split)), None):
        same_pct = [accuracy_pct(of_exit) for of_exit in same[compared]]
        agreement = {
            "split": compared,
            "samples": len(splits[compared]),
            "same_class_pct": same_pct,
            "accuracy_pct": list(scores.accuracies(compared)),
            "fp32_accuracy_pct": list(fp32.scores.accuracies(compared)),
        }
        if quantization.method:
            quantization = replace(quantization, agreement_pct={quantization.method: float(np.mean(same_pct))})
    return ExportedCascade(
        stages=stages,
        reference=Reference.of_stages(stages, fp32.reference.images, request.precision),
        scores=scores,
        quantization=quantization,
        agreement=agreement,
    )


def warn_of_loss(own: ExitScores, fp32: ExitScores, request: ExportRequest, notice: Callable[[str], None]) -> None:
    """Tells the user where the last exit loses more than `MAX_PRECISION_LOSS_PCT` to the precision of `request`."""
    rows = own.any_criterion
    if not rows:
        return
    split = next(iter(rows))
    before, after = fp32.any_criterion[split].correct[-1], rows[split].correct[-1]
    lost_pct = drop_pct(before, after)
    if within(lost_pct, max(MAX_PRECISION_LOSS_PCT, 2 * drop_se_pct(before, after))):
        return
    safe = request.precision == "int8" and request.int8_range == "safe"
    notice(
        f"warning: {request.precision} costs {lost_pct:.2f} points at the last exit, on {len(after):,} images"
        + ("; for processors with VNNI and ARM64, --int8-range full rounds less" if safe else "")
    )
