"""Choosing a recipe that fits a folder of images, each choice with its reason."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcprune.data.split import balanced_split
from lcprune.data.survey import GREY_KINDS, Survey
from lcprune.errors import DataError, RecipeError
from lcprune.recipe.schema.model import PLACES, TORCHVISION
from lcprune.reporting.recipe_text import Choice, recipe_text

SMALL_PX = 64
"""Up to this shorter side (median) the paper's trunk is the default; above, a backbone that shrinks the image first."""
LARGE_MODEL = "torchvision/mobilenet_v3_small"

_FULL_RESOLUTION = {"vgg": (16, 32, 48, 64), "msdnet": (32, 48, 64)}  # trunks that begin at the size of the image
_SHRINKING = (32, 64, 96, 128)  # trunks whose stem halves it twice
_LEAST_PX = 64  # for torchvision's, which halve an image five times; benchmarks/results/init_trials.json
_PRETRAINED_PX = 224  # what torchvision's weights were trained with
_SHARES = (0.15, 0.2, 0.3)  # of the training images, held out for validation, and as many for testing
_MOST_HELD_OUT = 5_000
_IMBALANCED = 3.0  # the largest class over the smallest one
_ELONGATED = 1.2
_LARGE_GB = 2.0
_AVERAGE = 0.1  # of the run


@dataclass(frozen=True)
class Wanted:
    """What the user decided; None for what is to be chosen."""

    model: str | None = None
    image_size: int | None = None
    weights: str = "none"


@dataclass(frozen=True)
class _Plan:
    """What the sections share."""

    trunk: str
    size: int
    val: int
    test: int
    batch: int
    epochs: int
    steps: int
    pretrained: bool
    from_file: bool
    """Whether pretrained weights are the user's own: maybe of few images, and so to be changed by more."""
    imported: bool
    """Whether the trunk is torchvision's or the user's own."""


def suggest_recipe(found: Survey, root: str, wanted: Wanted) -> str:
    """The YAML of a recipe for the images that were found.

    Args:
        found: What the folder holds.
        root: The folder, as the recipe shall name it.
        wanted: What is not to be chosen.

    Raises:
        DataError: If no image can be read, or a class has too few to hold one out for validation.
        RecipeError: If there are no such weights.
    """
    plan = _plan(found, wanted)
    training = sum(found.train_counts.values())
    heading = (
        f"{training:,} training images of {len(found.classes)} classes in {root}. Written by `lcprune init`.",
        "Every line may be changed; docs/recipes.md describes all keys. `lcprune train` reads this file when it is "
        "given no recipe, `lcprune train --dry-run` shows what the network costs, and `lcprune validate` checks it.",
    )
    sections = {
        "data": list(_data(found, root, plan, wanted)),
        "model": list(_model(found, plan, wanted)),
        "critics": list(_critics(plan)),
        "train": list(_train(plan)),
        "logging": [Choice("every", min(50, max(1, plan.steps // 50)))],
    }
    return recipe_text(heading, recipe_name(found.root.resolve().name), sections)


def recipe_name(folder: str) -> str:
    """A name that a recipe may have, made of a folder's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder).strip("-._")[:64] or "photos"


def trunk_of(model: str) -> str:
    """``model.trunk`` of what was given as ``--model``: torchvision's names need no prefix."""
    is_known = model in PLACES or "/" in model or ":" in model
    return model if is_known else f"torchvision/{model}"


def _plan(found: Survey, wanted: Wanted) -> _Plan:
    if not found.sample.shorter:
        raise DataError(
            f"none of the {found.sample.sampled:,} images looked at in {found.root} can be read",
            "see what lcprune predict or another program says about one of them",
        )
    trunk = _default_trunk(found, wanted) if wanted.model is None else trunk_of(wanted.model)
    _check_weights(trunk, wanted.weights)
    val, test = _held_out(found)
    training = sum(found.train_counts.values()) - val - test
    pretrained, imported = wanted.weights != "none", trunk not in PLACES
    batch = _batch_size(training, 64 if imported or trunk != "vgg" else 128)
    per_epoch = max(1, training // batch)
    epochs = _clipped(1_500 / per_epoch, 3, 20) if pretrained else _clipped(4_000 / per_epoch, 10, 60)
    size = wanted.image_size or _image_size(trunk, _typical_px(found), pretrained)
    from_file = wanted.weights not in ("none", "default")
    return _Plan(trunk, size, val, test, batch, epochs, epochs * per_epoch, pretrained, from_file, imported)


def _check_weights(trunk: str, weights: str) -> None:
    if weights != "none" and trunk in PLACES:
        raise RecipeError(
            f"there are no weights for {trunk}", "leave --weights out, or name one of torchvision's models"
        )
    if weights not in ("none", "default") and not Path(weights).is_file():
        raise RecipeError(f"there is no file {weights}", "write --weights none, default, or the path of a file")


def _typical_px(found: Survey) -> int:
    return round(found.sample.shorter[2])


def _default_trunk(found: Survey, wanted: Wanted) -> str:
    small = (wanted.image_size or _typical_px(found)) <= SMALL_PX and wanted.weights == "none"
    return "vgg" if small else LARGE_MODEL


def _image_size(trunk: str, typical: int, pretrained: bool) -> int:
    if pretrained:
        return _PRETRAINED_PX if typical >= _PRETRAINED_PX else max(SMALL_PX, 32 * (typical // 32))
    sizes = _FULL_RESOLUTION.get(trunk, _SHRINKING)
    least = max(typical, _LEAST_PX if trunk.startswith(TORCHVISION) else 0)
    return next((size for size in sizes if size >= least), sizes[-1])


def _held_out(found: Survey) -> tuple[int, int]:
    """Validation and test images to hold out, so that every class has some to learn from and some to validate.

    0 where the folder brings its own. If that cannot be had, no test images are held out.
    """
    counts = found.train_counts
    labels = np.repeat(np.arange(len(counts)), list(counts.values()))
    brought = [split in found.counts for split in ("val", "test")]
    for test_too in (True, False):
        for share in _SHARES:
            part = max(len(counts), min(_MOST_HELD_OUT, round(share * len(labels))))
            val, test = (0 if there else part for there in brought)
            test = test if test_too else 0
            if _every_class_stays(labels, val, test):
                return val, test
    fewest = min(counts, key=lambda name: counts[name])
    raise DataError(
        f"the class {fewest} has {counts[fewest]} of {len(labels):,} images: too few to hold some out for validation",
        "add images of that class, leave it out, or make a val/ folder beside train/ by hand",
    )


def _every_class_stays(labels: NDArray[np.int64], val: int, test: int) -> bool:
    """Whether all classes are in the training images and, unless none are held out, in the validation images."""
    if val + test >= len(labels):
        return False
    rest = labels[balanced_split(labels, test, seed=0)[0]]  # the seed does not change how many there are of a class
    train_indices, val_indices = balanced_split(rest, val, seed=0)
    sides = [rest[train_indices], *([rest[val_indices]] if val else [])]
    return all(bool(np.bincount(side, minlength=labels[-1] + 1).all()) for side in sides)


def _batch_size(training: int, most: int) -> int:
    """The largest power of 2 that makes at least 16 steps of an epoch, 8 to `most`, and no more than there are."""
    size = most
    while size > 8 and size * 16 > training:
        size //= 2
    return min(size, training)


def _clipped(value: float, least: int, most: int) -> int:
    return max(least, min(most, round(value)))


def _data(found: Survey, root: str, plan: _Plan, wanted: Wanted) -> Iterator[Choice]:
    yield Choice("source", "imagefolder")
    yield Choice("root", root)
    yield from _geometry(found, plan, wanted)
    yield Choice("val_size", plan.val, _why_val(found, plan))
    if plan.test:
        why = (
            "As many for testing, drawn before those: they decide nothing. A test/ folder beside train/ would do, too."
        )
        yield Choice("test_size", plan.test, why)
    yield from _faults(found)
    yield from _augmentation(plan)
    why = "At least 16 steps of each pass over the images, and no more than keeps a CPU's memory small."
    yield Choice("batch_size", plan.batch, why)
    pixels_gb = 3 * plan.size**2 * sum(sum(counts.values()) for counts in found.counts.values()) / 1e9
    if pixels_gb > _LARGE_GB:
        why = (
            f"All images take {pixels_gb:.1f} GB. Where that is over a quarter of the memory, they are decoded for "
            "each batch, by as many processes."
        )
        yield Choice("workers", 2, why)


def _geometry(found: Survey, plan: _Plan, wanted: Wanted) -> Iterator[Choice]:
    yield Choice("image_size", plan.size, _why_size(found, plan, wanted))
    if plan.size > SMALL_PX and found.sample.elongation[2] >= _ELONGATED:
        why = (
            f"They are {found.sample.elongation[2]:.1f} times as long as wide (median): the middle is cut out. `none` "
            "keeps the ends and stretches instead."
        )
        yield Choice("crop", "center", why)
    if plan.pretrained:
        yield Choice("normalize", "imagenet", "What pretrained weights expect.")
    if not plan.imported and set(found.sample.kinds) <= GREY_KINDS:
        yield Choice("channels", 1, "All images that were looked at are grey.")


def _faults(found: Survey) -> Iterator[Choice]:
    """What is made up for: damaged files and classes of unequal size."""
    if found.sample.damaged:
        why = (
            f"Damaged files were found ({len(found.sample.damaged)}): they are left out and counted. `stop` names them."
        )
        yield Choice("on_bad_image", "skip", why)
    if found.imbalance >= _IMBALANCED:
        counts = found.train_counts
        most, fewest = (pick(counts, key=lambda name: counts[name]) for pick in (max, min))
        why = (
            f"The class {most} has {found.imbalance:.1f} times as many images as {fewest}: images of small classes are "
            "drawn more often, so that all classes are seen equally often. `none` draws every image as often."
        )
        yield Choice("balance", "sampling", why)


def _augmentation(plan: _Plan) -> Iterator[Choice]:
    mirrored = "Where left and right matter, as in letters or road signs, write crop."
    if plan.pretrained and plan.size > SMALL_PX:  # of smaller ones a random part shows too little
        yield Choice("augment", "resized_crop", f"A random part of every image, mirrored at random. {mirrored}")
        return
    why = f"Every image is shifted by up to `pad` pixels and mirrored at random. {mirrored}"
    yield Choice("augment", "crop_flip", why)
    yield Choice("pad", max(1, plan.size // 8))


def _why_size(found: Survey, plan: _Plan, wanted: Wanted) -> str:
    typical = _typical_px(found)
    of_images = f"The shorter side of the images is {typical} pixels (median)."
    if wanted.image_size:
        reason = "This size was asked for."
    elif plan.size < typical:
        reason = f"Cost grows with the area: at {2 * plan.size} a step takes four times as long, and finds more detail."
    else:
        reason = "That is kept." if plan.size == typical else "This is the next size that halves without a remainder."
        if plan.size == _LEAST_PX > typical and plan.trunk.startswith(TORCHVISION):
            reason = "They are enlarged: this network halves them five times, and of 32 pixels one would be left."
    return f"Height and width in pixels that the network sees. {of_images} {reason}"


def _why_val(found: Survey, plan: _Plan) -> str:
    if "val" in found.counts:
        return "val/ holds the validation images, which decide about sub-models and thresholds."
    share = 100 * plan.val / sum(found.train_counts.values())
    return (
        f"{share:.0f} % of the training images, evenly over the classes, are held out: they decide about sub-models "
        "and thresholds."
    )


def _model(found: Survey, plan: _Plan, wanted: Wanted) -> Iterator[Choice]:
    typical = _typical_px(found)
    if wanted.model is not None:
        why = "As it was asked for."
    elif plan.trunk == "vgg":
        why = f"Images of {typical} pixels are small enough for the paper's network, which never shrinks them at once."
    else:
        why = f"At {typical} pixels a network that shrinks the image early is many times cheaper than the paper's."
    yield Choice("trunk", plan.trunk, why)
    if plan.imported:
        yield from _imported(plan, wanted)
    else:
        yield Choice("width", 0.25, "A quarter of the channels, for a CPU; 1.0 is the full size, for a GPU.")


def _imported(plan: _Plan, wanted: Wanted) -> Iterator[Choice]:
    if plan.trunk.startswith("torchvision/"):
        why = (
            "`default` begins with weights learned on ImageNet, which torchvision downloads once; with few images that "
            "is worth much. `lcprune init` with --weights default chooses image_size, epochs and lr for it."
            if wanted.weights == "none"
            else "The network begins with these weights and a new last layer."
        )
        yield Choice("weights", wanted.weights, why)
    elif wanted.weights != "none":
        yield Choice(
            "weights", wanted.weights, "The network begins with these weights, and a new last layer if need be."
        )
    if ":" not in plan.trunk:
        yield Choice("groups", 4, "Groups of nearly equal cost, with a critic after each but the last: four exits.")


def _critics(plan: _Plan) -> Iterator[Choice]:
    if plan.trunk == "msdnet":
        yield Choice("head", "msdnet", "The classifiers of its authors.")
    else:
        yield Choice("head", "pooled", "An average before the critic's convolution: a fraction of the paper's cost.")
    if plan.trunk == "vgg" and plan.size % 16:
        why = "Height and width after that average: they divide those of the three layers that critics read."
        yield Choice("pool_to", [_divisor(plan.size >> halvings) for halvings in range(3)], why)
    yield Choice("batch_norm", True)
    yield Choice("lr", 1e-3)
    yield Choice("schedule", "one_cycle")


def _divisor(size: int) -> int:
    """4 if it divides the size, else the largest up to 8 that does."""
    return 4 if size % 4 == 0 else next(number for number in range(8, 0, -1) if size % number == 0)


def _train(plan: _Plan) -> Iterator[Choice]:
    why = (
        "All exits learn jointly, which gives the best accuracy in a given time on a CPU. `local_critic` is the "
        "paper's method; docs/methods.md describes both."
    )
    yield Choice("method", "deep_supervision", why)
    why = (
        f"Passes over the training images: {plan.steps:,} steps. Accuracy mostly grows with them; if that of the "
        "validation images still rises in the end, double it."
    )
    yield Choice("epochs", plan.epochs, why)
    highest = 0.05 if plan.from_file else 0.02 if plan.pretrained else 0.2 if plan.trunk == "vgg" else 0.1
    why = "The highest rate, for this batch_size; halve it with half the batch, or if the loss does not fall."
    yield Choice("lr", float(f"{highest * plan.batch / 128:.2g}"), why)
    yield Choice("schedule", "one_cycle")
    yield Choice("nesterov", True)
    yield Choice("init", "kaiming")
    if plan.imported:
        why = (
            "Weights are averaged over this last part, and BatchNorm's statistics measured anew for them: mobilenet "
            "collects them so slowly that those of a short run are wrong. Accuracies on the way still are."
        )
        yield Choice("average", _AVERAGE, why)
    yield Choice("channels_last", True)
    often = max(1, plan.steps // 10)
    yield Choice("evaluate_every", often, "Steps: ten times in the run.")
    yield Choice("checkpoint_every", often, "After Ctrl-C, `lcprune resume` goes on; this is for a power failure.")
