"""Metadata of an exported file."""

import hashlib
from collections.abc import Sequence

from lcprune import recipe as recipes
from lcprune.analysis.cost import NetworkCost
from lcprune.data import sources
from lcprune.exporters.metadata import ExitInfo, InputInfo, ModelInfo
from lcprune.pipeline.stored import DataFacts
from lcprune.recipe import Recipe

Accuracies = Sequence[float | None]


def file_info(
    recipe: Recipe,
    facts: DataFacts,
    cost: NetworkCost,
    kept: Sequence[int] = (),
    val: Accuracies = (),
    test: Accuracies = (),
) -> ModelInfo:
    """The metadata of a file that ends at the last exit of `cost`.

    Args:
        recipe: Of the run.
        facts: Of its data.
        cost: Of the network; of its first exits alone, where the file ends before main.
        kept: Early exits of the file, as exit indices; a sub-model has none.
        val: Accuracies of all exits, in percent, or empty.
        test: Likewise.
    """
    exits = [*kept, len(cost.exits) - 1]
    return ModelInfo(
        classes=facts.classes,
        mean=facts.mean,
        std=facts.std,
        exits=tuple(
            ExitInfo(
                name=cost.exits[index].name,
                exit_index=index,
                macs=cost.exits[index].macs,
                params=cost.exits[index].params,
                val_accuracy_pct=val[index] if val else None,
                test_accuracy_pct=test[index] if test else None,
            )
            for index in exits
        ),
        input=InputInfo.of(sources.preparation(recipe.data, facts.image_shape)),
        recipe_sha256=hashlib.sha256(recipes.dump(recipe).encode()).hexdigest(),
        main_macs=cost.exits[-1].macs,
        exit_macs=cost.cascade.exit_macs(kept),
    )
