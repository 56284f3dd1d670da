"""`lcprune recipes`, `validate` and `schema`, and `cuts`, which says what `model.cuts` may be."""

import json
from typing import Annotated

import typer

from lcprune.cli.failing import torch_needed, user_errors
from lcprune.cli.options import Json, Overrides, Quiet, RecipeName
from lcprune.cli.output import show


def cuts(
    trunk: Annotated[str, typer.Argument(help="torchvision/NAME, or your own package.module:callable.")],
    image_size: Annotated[int, typer.Option(min=1, help="Height and width of an image, in pixels.")] = 224,
    channels: Annotated[int, typer.Option(min=1, help="Channels of an image.")] = 3,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 1000,
    groups: Annotated[int, typer.Option(min=2, help="Layer groups that model.cuts: auto is asked for.")] = 4,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List where a trunk can be cut into layer groups, with the MACs before each place and the shape there."""
    with user_errors(as_json):
        with torch_needed():
            from lcprune.pipeline import cuts as pipeline
        from lcprune.reporting import tables

        result = pipeline.list_cuts(trunk, image_size=image_size, channels=channels, classes=classes, groups=groups)
        show(result, tables.cuts_table(result), as_json, quiet)


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe's YAML, to copy and change.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the shipped recipes, or print one."""
    with user_errors(as_json):
        from lcprune import recipe as known
        from lcprune.errors import RecipeError
        from lcprune.reporting import tables

        shipped = known.shipped()
        if name is None:
            described = {key: known.description(text) for key, text in shipped.items()}
            show(described, tables.recipe_table(described), as_json, quiet)
        elif name in shipped:
            typer.echo(json.dumps({name: shipped[name]}) if as_json else shipped[name], nl=as_json)
        else:
            raise RecipeError(f"there is no shipped recipe {name}", f"choose from {', '.join(shipped)}")


def validate(
    recipe: RecipeName = None, overrides: Overrides = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Check a recipe."""
    with user_errors(as_json):
        from lcprune import recipe as recipes

        checked = recipes.load(recipe, overrides or [])
        show(checked.model_dump(mode="json", exclude_none=True), f"{checked.name}: the recipe is right", as_json, quiet)


def schema(as_json: Json = True, quiet: Quiet = False) -> None:
    """Print the JSON Schema of recipes, for editors."""
    from lcprune import recipe as recipes

    typer.echo(json.dumps(recipes.json_schema(), indent=2))
