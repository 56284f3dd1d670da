"""Recipes: what to train, written in YAML and validated when they are read.

`load` reads a file or the name of a recipe that ships inside the package, applies ``KEY=VALUE`` overrides and
returns a frozen `Recipe`. Every error names the key, the line and, for a misspelt key, the nearest known one.
"""

from lcprune.recipe.read import description, dump, json_schema, load, parse, shipped
from lcprune.recipe.schema.data import DataConfig
from lcprune.recipe.schema.recipe import Recipe

__all__ = ["DataConfig", "Recipe", "description", "dump", "json_schema", "load", "parse", "shipped"]
