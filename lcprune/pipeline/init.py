"""`lcprune init`: surveys a folder of images and writes a recipe that fits it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.data.survey import FoundImage, Survey, survey
from lcprune.errors import RecipeError
from lcprune.pipeline.suggest_recipe import Wanted, suggest_recipe
from lcprune.recipe import Recipe

__all__ = ["Wanted", "as_json", "init"]


def init(
    folder: Path,
    output: Path,
    wanted: Wanted,
    force: bool,
    check: Callable[[Recipe], object],
    step_seconds: Callable[[Recipe], float],
) -> dict[str, Any]:
    """Surveys the folder and writes the recipe to `output`; returns what was found.

    Args:
        folder: ``CLASS/image``, or ``train/CLASS/image`` with ``val/`` and ``test/`` beside it.
        output: The YAML file to write.
        wanted: What is not to be chosen.
        force: Whether a file that is there may be replaced.
        check: Called with a recipe that has the user's choices; raises an error if the network cannot be built, or
            the weights do not fit it.
        step_seconds: Measures a training step of a recipe on this machine.

    Raises:
        RecipeError: If `output` is there and `force` is not given, or `wanted` makes no right recipe.
        DataError: If training would refuse the folder.
        RunError: If `output` cannot be written.
    """
    if output.exists() and not force:
        raise RecipeError(f"{output} is there already", "add --force to replace it, or name another with --output")
    found = survey(folder)
    text = suggest_recipe(found, _root(folder, output), wanted)
    recipe = recipes.parse(text, str(output))
    if wanted.model or wanted.image_size or wanted.weights not in ("none", "default"):
        without_download = ["model.weights=none"] if wanted.weights == "default" else []
        check(recipes.parse(text, str(output), without_download))
    steps = _steps(found, recipe)
    training_s = steps * step_seconds(recipe)
    runs.write_text(output, text)
    return {"recipe": str(output), **as_json(found), "steps": steps, "training_s": round(training_s, 1)}


def _steps(found: Survey, recipe: Recipe) -> int:
    """Of the whole training."""
    images = sum(found.train_counts.values()) - recipe.data.val_size - recipe.data.test_size
    return round((recipe.train.epochs or 0) * max(1, images // recipe.data.batch_size))


def as_json(found: Survey) -> dict[str, Any]:
    """What was found, in plain values."""
    sample, copies = found.sample, found.copies
    return {
        "folder": str(found.root),
        "classes": list(found.classes),
        "counts": {split or "all": dict(counts) for split, counts in found.counts.items()},
        "imbalance": round(found.imbalance, 3),
        "sampled": sample.sampled,
        "decoded": sample.decoded,
        "width_px": list(sample.widths),
        "height_px": list(sample.heights),
        "kinds": dict(sample.kinds),
        "rotated": sample.rotated,
        "damaged": [{"path": path, "problem": problem} for path, problem in sample.damaged.items()],
        "copies": [_paths(group) for group in copies.groups],
        "leaks": [_paths(group) for group in copies.leaks],
        "contradictions": [_paths(group) for group in copies.contradictions],
        "same_size": copies.same_size,
        "compared": copies.compared,
        "other_files": dict(found.other_files),
        "other_examples": list(found.other_examples),
        "remarks": list(found.remarks),
    }


def _paths(group: tuple[FoundImage, ...]) -> list[str]:
    return [image.path for image in group]


def _root(folder: Path, output: Path) -> str:
    """The folder as the recipe names it: relative where `lcprune train` will find it from here, else absolute."""
    here, absolute = Path.cwd(), folder.resolve()
    if not folder.is_absolute() and output.resolve().parent == here and absolute.is_relative_to(here):
        return absolute.relative_to(here).as_posix()
    return str(absolute)
