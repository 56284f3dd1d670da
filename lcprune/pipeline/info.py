"""Metadata of an exported file."""

from collections.abc import Sequence
from dataclasses import dataclass

from lcprune.analysis.cost import NetworkCost
from lcprune.pipeline.stored import DataFacts
from lcprune_runtime.images import Preparation
from lcprune_runtime.metadata import ExitInfo, InputInfo, ModelInfo


@dataclass(frozen=True)
class RunInfo:
    """Metadata that all files of a run share."""

    facts: DataFacts
    preparation: Preparation
    """How an image file is prepared for the network."""
    recipe_sha256: str
    main_macs: int
    """Of the network's main, whether or not a file has it."""


def file_info(
    run: RunInfo,
    cost: NetworkCost,
    thresholds: Sequence[float] = (),
    val: Sequence[float] = (),
    test: Sequence[float] = (),
) -> ModelInfo:
    """The metadata of a file.

    Args:
        run: Which the file is made of.
        cost: Of the exits of the file alone.
        thresholds: Of the early exits of the file.
        val: Accuracies of the exits of the file, in percent, or empty.
        test: Likewise.
    """
    return ModelInfo(
        classes=run.facts.classes,
        mean=run.facts.mean,
        std=run.facts.std,
        exits=tuple(
            ExitInfo(
                name=of_exit.name,
                exit_index=of_exit.exit_index,
                macs=of_exit.macs,
                params=of_exit.params,
                val_accuracy_pct=val[k] if val else None,
                test_accuracy_pct=test[k] if test else None,
                image_size=of_exit.image_size,
            )
            for k, of_exit in enumerate(cost.exits)
        ),
        input=InputInfo.of(run.preparation),
        recipe_sha256=run.recipe_sha256,
        main_macs=run.main_macs,
        exit_macs=cost.cascade.exit_macs(),
        thresholds=tuple(map(float, thresholds)),
    )
