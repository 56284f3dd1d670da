"""The schema of a recipe: one frozen model per section, one docstring per key."""

from lcprune.recipe.schema.critics import CriticsConfig
from lcprune.recipe.schema.data import DataConfig
from lcprune.recipe.schema.model import PLACES, TORCHVISION, ModelConfig
from lcprune.recipe.schema.section import Head
from lcprune.recipe.schema.train import LoggingConfig, TrainConfig
from lcprune.recipe.schema.whole import Recipe, known_keys, sections

__all__ = [
    "PLACES",
    "TORCHVISION",
    "CriticsConfig",
    "DataConfig",
    "Head",
    "LoggingConfig",
    "ModelConfig",
    "Recipe",
    "TrainConfig",
    "known_keys",
    "sections",
]
