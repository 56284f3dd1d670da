"""Recipes: `lcprune init`, `recipes`, `validate`, `schema`, and `cuts`, which lists what `model.cuts` may be."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lcprune.cli.failing import torch_needed
from lcprune.cli.options import Overrides, RecipeName, whole_numbers
from lcprune.cli.output import command
from lcprune_runtime.command_line import Json, Result


@command
def init(
    folder: Annotated[Path, typer.Argument(help="Holds CLASS/image, or train/CLASS/image and val/ and test/ beside.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Such as vgg, mobilenet_v3_small or timm/NAME. Default: by the size of the images."
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="N|N,N,..", help="Height and width to resize to, or several. Default: by the images."),
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="none|default|PATH", help="Weights to fine-tune; default: ImageNet's.")
    ] = "none",
    output: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("lcprune.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> Result:
    """Write a recipe that fits a folder of images."""
    from lcprune.pipeline import init as pipeline
    from lcprune.reporting import tables

    sizes = whole_numbers("--image-size", image_size, 8, 2048) if image_size else ()
    *smaller, largest = sorted(set(sizes)) or (None,)
    wanted = pipeline.Wanted(model, largest, weights, tuple(smaller))
    result = pipeline.init(folder, output, wanted, force, dry_run, _step_seconds)
    return result, tables.survey_table(result)


def _step_seconds(recipe: Any) -> float:
    with torch_needed():
        from lcprune.pipeline import estimate
    return estimate.step_seconds(recipe)


def dry_run(recipe: Any, data_root: Path | None = None) -> dict[str, Any]:
    """What a recipe would train; or the error of a recipe whose network cannot be built."""
    with torch_needed():
        from lcprune.pipeline import train as pipeline
    return pipeline.dry_run(recipe, data_root)


@command
def cuts(
    trunk: Annotated[str, typer.Argument(help="torchvision/NAME, timm/NAME, or your own package.module:callable.")],
    image_size: Annotated[int, typer.Option(min=1, help="Height and width of an image, in pixels.")] = 224,
    channels: Annotated[int, typer.Option(min=1, help="Channels of an image.")] = 3,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 1000,
    groups: Annotated[int, typer.Option(min=2, help="Layer groups of model.cuts: auto.")] = 4,
) -> Result:
    """List where a backbone can be cut into layer groups."""
    with torch_needed():
        from lcprune.pipeline import cuts as pipeline
    from lcprune.reporting import tables

    result = pipeline.list_cuts(trunk, image_size=image_size, channels=channels, classes=classes, groups=groups)
    return result, tables.cuts_table(result)


@command
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe's YAML, to copy and change.")] = None,
    as_json: Json = False,
) -> Result | None:
    """List the shipped recipes, or print one."""
    from lcprune import recipe as known
    from lcprune.errors import RecipeError
    from lcprune.reporting import tables

    shipped = known.shipped()
    if name is None:
        described = {key: known.description(text) for key, text in shipped.items()}
        return described, tables.recipe_table(described)
    if name not in shipped:
        raise RecipeError(f"there is no shipped recipe {name}", f"choose from {', '.join(shipped)}")
    typer.echo(json.dumps({name: shipped[name]}) if as_json else shipped[name], nl=as_json)
    return None


@command
def validate(recipe: RecipeName = None, overrides: Overrides = None) -> Result:
    """Check a recipe."""
    from lcprune import recipe as recipes

    checked = recipes.load(recipe, overrides or [])
    return checked.model_dump(mode="json", exclude_none=True), f"{checked.name}: the recipe is valid"


@command
def schema(as_json: Json = True) -> Result:
    """Print the JSON Schema of recipes, for editors."""
    from lcprune import recipe as recipes

    return recipes.json_schema(), None
