"""The schema of a recipe: one frozen model per section, one docstring per key."""
