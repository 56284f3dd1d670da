"""Choosing a recipe that fits a folder of images, each choice with its reason."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcprune.data.split import balanced_split
from lcprune.data.survey import GREY_KINDS, Survey
from lcprune.errors import DataError, RecipeError
from lcprune.recipe.schema.model import PLACES, ZOOS
from lcprune.reporting.recipe_text import Value, recipe_text

SMALL_PX = 64
"""Up to this shorter side (median) the paper's backbone is the default; above, one whose stem shrinks the image."""
LARGE_MODEL = "torchvision/mobilenet_v3_small"

_FULL_RESOLUTION = {"vgg": (16, 32, 48, 64), "msdnet": (32, 48, 64)}  # backbones that begin at the size of the image
_SHRINKING = (32, 64, 96, 128)  # backbones whose stem halves it twice
_LEAST_PX = (
    64  # for those of torchvision and timm, which halve an image five times; benchmarks/results/init_trials.json
)
_SMALLER = (0.5, 0.75)  # of the input size, where one network learns several: docs/phone.md
_PRETRAINED_PX = 224  # what most pretrained weights were trained with
_SHARES = (0.15, 0.2, 0.3)  # of the training images, held out for validation, and as many for testing
_MOST_HELD_OUT = 5_000
_IMBALANCED = 3.0  # the largest class over the smallest one
_ELONGATED = 1.2
_LARGE_GB = 2.0


@dataclass(frozen=True)
class Wanted:
    """What the user decided; None: to be chosen."""

    model: str | None = None
    image_size: int | None = None
    weights: str = "none"
    smaller_sizes: tuple[int, ...] = ()
    """Input sizes besides `image_size`, ascending."""


@dataclass(frozen=True)
class _Plan:
    """Decisions that several sections share."""

    trunk: str
    size: int
    smaller_sizes: tuple[int, ...]
    typical: int
    """Median of the shorter sides of the images, in pixels."""
    val: int
    test: int
    batch: int
    epochs: int
    steps: int
    weights: str

    @property
    def pretrained(self) -> bool:
        """Whether pretrained weights are fine-tuned."""
        return self.weights != "none"

    @property
    def imported(self) -> bool:
        """Whether the backbone is torchvision's, timm's or the user's own."""
        return self.trunk not in PLACES

    @property
    def from_zoo(self) -> bool:
        """Whether the backbone is torchvision's or timm's."""
        return self.trunk.startswith(ZOOS)


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
    sections: dict[str, dict[str, Value | None]] = {
        "data": _data(found, root, plan),
        "model": {
            "trunk": plan.trunk,
            "weights": plan.weights if plan.from_zoo or plan.pretrained else None,
            "groups": 4 if plan.imported and ":" not in plan.trunk else None,
            "width": None if plan.imported else 0.25,
        },
        "critics": {
            "head": "msdnet" if plan.trunk == "msdnet" else "pooled",
            "pool_to": [_divisor(plan.size >> n) for n in range(3)] if plan.trunk == "vgg" and plan.size % 16 else None,
            "batch_norm": True,
            "lr": 1e-3,
            "schedule": "one_cycle",
        },
        "train": _train(plan),
        "logging": {"every": min(50, max(1, plan.steps // 50))},
    }
    reasons = _data_reasons(found, plan, wanted) | _other_reasons(plan, wanted)
    return recipe_text(heading, recipe_name(found.root.resolve().name), sections, reasons)


def recipe_name(folder: str) -> str:
    """A valid name for a recipe, from that of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder).strip("-._")[:64] or "photos"


def trunk_of(model: str) -> str:
    """``model.trunk`` for ``--model``: torchvision's names need no prefix."""
    is_known = model in PLACES or "/" in model or ":" in model
    return model if is_known else f"torchvision/{model}"


def _plan(found: Survey, wanted: Wanted) -> _Plan:
    if not found.sample.shorter:
        raise DataError(
            f"none of the {found.sample.sampled:,} images looked at in {found.root} can be read",
            "see what lcprune predict or another program says about one of them",
        )
    typical, pretrained = round(found.sample.shorter[2]), wanted.weights != "none"
    small = (wanted.image_size or typical) <= SMALL_PX and not pretrained and not wanted.smaller_sizes
    trunk = trunk_of(wanted.model or ("vgg" if small else LARGE_MODEL))
    if pretrained and trunk in PLACES:
        raise RecipeError(
            f"there are no weights for {trunk}", "leave --weights out, or name a model of torchvision or timm"
        )
    if wanted.weights not in ("none", "default") and not Path(wanted.weights).is_file():
        raise RecipeError(f"there is no file {wanted.weights}", "write --weights none, default, or the path of a file")
    val, test = _held_out(found)
    training = sum(found.train_counts.values()) - val - test
    batch = _batch_size(training, 128 if trunk == "vgg" else 64)
    per_epoch = max(1, training // batch)
    steps, least, most = (1_500, 3, 20) if pretrained else (4_000, 10, 60)
    epochs = max(least, min(most, round(steps / per_epoch)))
    size = wanted.image_size or _image_size(trunk, typical, pretrained)
    steps = epochs * per_epoch
    smaller = wanted.smaller_sizes
    if pretrained and wanted.image_size is None and trunk.startswith(ZOOS):
        smaller = tuple(int(part * size) for part in _SMALLER if part * size >= _LEAST_PX)
    return _Plan(trunk, size, smaller, typical, val, test, batch, epochs, steps, wanted.weights)


def _image_size(trunk: str, typical: int, pretrained: bool) -> int:
    if pretrained:
        return _PRETRAINED_PX if typical >= _PRETRAINED_PX else max(SMALL_PX, 32 * (typical // 32))
    sizes = _FULL_RESOLUTION.get(trunk, _SHRINKING)
    least = max(typical, _LEAST_PX if trunk.startswith(ZOOS) else 0)
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


def _divisor(size: int) -> int:
    """4 if it divides the size, else the largest up to 8 that does."""
    return 4 if size % 4 == 0 else next(number for number in range(8, 0, -1) if size % number == 0)


def _data(found: Survey, root: str, plan: _Plan) -> dict[str, Value | None]:
    crops = plan.pretrained and plan.size > SMALL_PX  # of smaller ones a random part shows too little
    is_long = plan.size > SMALL_PX and found.sample.elongation[2] >= _ELONGATED
    return {
        "source": "imagefolder",
        "root": root,
        "image_size": (*plan.smaller_sizes, plan.size) if plan.smaller_sizes else plan.size,
        "crop": "center" if is_long else None,
        "normalize": "imagenet" if plan.pretrained else None,
        "channels": 1 if not plan.imported and set(found.sample.kinds) <= GREY_KINDS else None,
        "val_size": plan.val,
        "test_size": plan.test or None,
        "on_bad_image": "skip" if found.sample.damaged else None,
        "balance": "sampling" if found.imbalance >= _IMBALANCED else None,
        "augment": "resized_crop" if crops else "crop_flip",
        "pad": None if crops else max(1, plan.size // 8),
        "batch_size": plan.batch,
        "workers": 2 if _pixels_gb(found, plan) > _LARGE_GB else None,
    }


def _train(plan: _Plan) -> dict[str, Value | None]:
    highest = 0.2 if plan.trunk == "vgg" else 0.1
    if plan.pretrained:
        highest = 0.02 if plan.weights == "default" else 0.05  # the user's own: maybe of few images
    often = max(1, plan.steps // 10)
    return {
        "method": "deep_supervision",
        "epochs": plan.epochs,
        "lr": float(f"{highest * plan.batch / 128:.2g}"),
        "schedule": "one_cycle",
        "nesterov": True,
        "init": "kaiming",
        "average": 0.1 if plan.imported else None,
        "channels_last": True,
        "evaluate_every": often,
        "checkpoint_every": often,
    }


def _pixels_gb(found: Survey, plan: _Plan) -> float:
    return 3 * plan.size**2 * sum(sum(counts.values()) for counts in found.counts.values()) / 1e9


def _data_reasons(found: Survey, plan: _Plan, wanted: Wanted) -> dict[str, str]:
    """Of the keys of ``data``, the absent ones included."""
    counts = found.train_counts
    most, fewest = (pick(counts, key=lambda name: counts[name]) for pick in (max, min))
    held_out = (
        "val/ holds the validation images"
        if "val" in found.counts
        else f"{100 * plan.val / sum(counts.values()):.0f} % of the training images, evenly over the classes, are held "
        "out for validation"
    )
    return {
        "data.image_size": _why_size(plan, wanted),
        "data.crop": f"They are {found.sample.elongation[2]:.1f} times as long as wide (median): the middle is cut "
        "out. `none` keeps the ends and stretches instead.",
        "data.normalize": "What pretrained weights expect.",
        "data.channels": "All images that were looked at are grey.",
        "data.val_size": f"{held_out}: they decide about sub-models and thresholds.",
        "data.test_size": "As many for testing, drawn before those: they decide nothing. A test/ folder beside train/ "
        "would do, too.",
        "data.on_bad_image": f"Damaged files were found ({len(found.sample.damaged)}): they are left out and counted. "
        "`stop` names them.",
        "data.balance": f"The class {most} has {found.imbalance:.1f} times as many images as {fewest}: images of small "
        "classes are drawn more often, so that all classes are seen equally often. `none` draws every image as often.",
        "data.augment": (
            "A random part of every image, mirrored at random. "
            if plan.pretrained and plan.size > SMALL_PX
            else "Every image is shifted by up to `pad` pixels and mirrored at random. "
        )
        + "Where left and right matter, as in letters or road signs, write crop.",
        "data.batch_size": "At least 16 steps of each epoch, and no more than keeps a CPU's memory small.",
        "data.workers": f"All images take {_pixels_gb(found, plan):.1f} GB. Where that is over a quarter of the "
        "memory, they are decoded for each batch, by as many processes.",
    }


def _why_size(plan: _Plan, wanted: Wanted) -> str:
    if wanted.smaller_sizes:
        reason = (
            "These sizes were asked for: one network learns all of them, and a sub-model is an exit at a size. Every "
            "step trains all."
        )
    elif plan.smaller_sizes:
        reason = (
            "One network learns all of these sizes, and a sub-model is an exit at a size: at half of the size it costs "
            "a quarter. A step takes nearly twice as long as at the largest alone."
        )
    elif wanted.image_size:
        reason = "This size was asked for."
    elif plan.size < plan.typical:
        reason = f"Cost grows with the area: at {2 * plan.size} a step takes four times as long, and finds more detail."
    elif plan.size == _LEAST_PX > plan.typical and plan.from_zoo:
        reason = "They are enlarged: this network halves them five times, and of 32 pixels one would be left."
    else:
        is_kept = plan.size == plan.typical
        reason = "That is kept." if is_kept else "This is the next size that halves without a remainder."
    return (
        f"Height and width in pixels of the network's input. The shorter side of the images is {plan.typical} pixels "
        f"(median). {reason}"
    )


def _other_reasons(plan: _Plan, wanted: Wanted) -> dict[str, str]:
    if wanted.model is not None:
        trunk = "As it was asked for."
    elif plan.trunk == "vgg":
        trunk = f"Images of {plan.typical} pixels are small enough for the paper's network, which has no stem."
    else:
        trunk = (
            f"At {plan.typical} pixels a network that shrinks the image early is many times cheaper than the paper's."
        )
    return {
        "model.trunk": trunk,
        "model.weights": "The network begins with these weights and, where the classes differ, a new last layer."
        if plan.pretrained
        else "`default` fine-tunes weights learned on ImageNet, which are downloaded once; with few images that "
        "is worth much. `lcprune init` with --weights default chooses image_size, epochs and lr for it.",
        "model.groups": "Groups of nearly equal cost, with a critic after each but the last: four exits.",
        "model.width": "A quarter of the channels, for a CPU; 1.0 is the full size, for a GPU.",
        "critics.head": "The classifiers of its authors."
        if plan.trunk == "msdnet"
        else "An average before the critic's convolution: a fraction of the paper's cost.",
        "critics.pool_to": "Height and width after that average: they divide those of the three layers that critics "
        "read.",
        "train.method": "All exits learn jointly, which gives the best accuracy in a given time on a CPU. "
        "`local_critic` is the paper's method; docs/methods.md describes both.",
        "train.epochs": f"Passes over the training images: {plan.steps:,} steps. Accuracy mostly grows with them; if "
        "that of the validation images still rises in the end, double it.",
        "train.lr": "The highest rate, for this batch_size; halve it with half the batch, or if the loss does not "
        "fall.",
        "train.average": "Weights are averaged over this last part, and BatchNorm's statistics measured anew for them: "
        "mobilenet collects them so slowly that those of a short run are wrong.",
        "train.evaluate_every": "Steps: ten times in the run.",
        "train.checkpoint_every": "After Ctrl-C, `lcprune resume` continues; this is for a power failure.",
    }
