"""What an exported file shall say about itself."""

import hashlib
from collections.abc import Sequence

from lcprune import recipe as recipes
from lcprune.analysis.cost import NetworkCost
from lcprune.data import sources
from lcprune.exporters.metadata import ExitInfo, InputInfo, ModelInfo
from lcprune.pipeline.stored import DataFacts
from lcprune.recipe import Recipe

Accuracies = Sequence[float | None]


def submodel_info(
    recipe: Recipe, facts: DataFacts, cost: NetworkCost, k: int, val: Accuracies = (), test: Accuracies = ()
) -> ModelInfo:
    """The metadata of sub-model `k`, from 1; `val` and `test` are accuracies of all exits, or empty."""
    return _info(recipe, facts, cost, [k - 1], (cost.exits[k - 1].macs,), val, test)


def progressive_info(
    recipe: Recipe,
    facts: DataFacts,
    cost: NetworkCost,
    kept: Sequence[int],
    val: Accuracies = (),
    test: Accuracies = (),
) -> ModelInfo:
    """The metadata of the cascade with the early exits `kept`, as exit indices."""
    return _info(recipe, facts, cost, [*kept, len(cost.exits) - 1], cost.cascade.exit_macs(kept), val, test)


def _info(
    recipe: Recipe,
    facts: DataFacts,
    cost: NetworkCost,
    exits: Sequence[int],
    exit_macs: tuple[int, ...],
    val: Accuracies,
    test: Accuracies,
) -> ModelInfo:
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
        exit_macs=exit_macs,
    )
