"""Metadata of an exported file."""

import hashlib
from collections.abc import Sequence

from lcprune import recipe as recipes
from lcprune.analysis.cost import NetworkCost
from lcprune.data import sources
from lcprune.exporters.metadata import ExitInfo, InputInfo, ModelInfo
from lcprune.pipeline.stored import DataFacts
from lcprune.recipe import Recipe


def file_info(
    recipe: Recipe,
    facts: DataFacts,
    cost: NetworkCost,
    main_macs: int,
    thresholds: Sequence[float] = (),
    val: Sequence[float] = (),
    test: Sequence[float] = (),
) -> ModelInfo:
    """The metadata of a file.

    Args:
        recipe: Of the run.
        facts: Of its data.
        cost: Of the exits of the file alone.
        main_macs: Of the network's main, whether or not the file has it.
        thresholds: Of the early exits of the file.
        val: Accuracies of the exits of the file, in percent, or empty.
        test: Likewise.
    """
    return ModelInfo(
        classes=facts.classes,
        mean=facts.mean,
        std=facts.std,
        exits=tuple(
            ExitInfo(
                name=of_exit.name,
                exit_index=of_exit.exit_index,
                macs=of_exit.macs,
                params=of_exit.params,
                val_accuracy_pct=val[k] if val else None,
                test_accuracy_pct=test[k] if test else None,
            )
            for k, of_exit in enumerate(cost.exits)
        ),
        input=InputInfo.of(sources.preparation(recipe.data, facts.image_shape)),
        recipe_sha256=hashlib.sha256(recipes.dump(recipe).encode()).hexdigest(),
        main_macs=main_macs,
        exit_macs=cost.cascade.exit_macs(),
        thresholds=tuple(map(float, thresholds)),
    )
