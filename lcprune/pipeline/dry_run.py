"""What a recipe would train, without data, training or files."""

from pathlib import Path
from typing import Any

from lcprune import models
from lcprune.analysis.counting import count_cost
from lcprune.data import sources
from lcprune.models.pretrained import load_pretrained
from lcprune.pipeline.cuts import balance
from lcprune.recipe import Recipe


def dry_run(recipe: Recipe, data_root: Path) -> dict[str, Any]:
    """The resolved recipe, and the cost of every sub-model of the untrained network."""
    classes, image_shape = sources.describe(recipe.data, data_root)
    ones = (1.0,) * image_shape[0]
    network = models.build(recipe, classes, image_shape, ones, ones)
    if recipe.model.weights not in ("none", "default"):  # these are downloaded
        load_pretrained(network, recipe.model)
    cost = count_cost(network, image_shape)
    main_macs = cost.exits[-1].macs
    candidates = [
        {
            "name": exit_cost.name,
            "exit_index": exit_cost.exit_index,
            "macs": exit_cost.macs,
            "params": exit_cost.params,
            "macs_ratio": exit_cost.macs / main_macs,
        }
        for exit_cost in cost.exits
    ]
    groups = balance(network, image_shape)
    return {
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "candidates": candidates,
        "cascade_macs": cost.cascade.exit_macs()[-1],
        **({"groups": groups} if groups else {}),
    }
