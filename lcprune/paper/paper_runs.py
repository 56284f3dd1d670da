"""The runs of the paper as recipes: shipped ones with overrides."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcprune import recipe as recipes
from lcprune.paper.scales import SCALES, Scale
from lcprune.recipe import Recipe

AFTER = {1: "[5]", 3: "[2, 5, 8]", 5: "[2, 4, 6, 8, 10]"}
"""Where 1, 3 and 5 critics sit in the VGG: at the place of LC2, as in Figure 2a, after every two layers."""

DEPTHS = ("3-3-3", "5-5-5", "3-2-1", "1-2-3", "5-4-3", "3-4-5")
"""Convolutions in LC1, LC2 and LC3, other than one in each (Table 2)."""

RECORDED_RUN, RECORDED_IMAGES = "lc_3", 400
"""The run whose per-image losses are recorded during training, and of how many images (Figure 6)."""

RECORDING = ("train.evaluate_every", "train.checkpoint_every", "logging")
"""Keys that change what is logged, and no result."""

SPEED = (
    "data.workers",
    "data.cache",
    "data.cache_gb",
    "train.channels_last",
    "train.memory",
    "train.cuda_graph",
    "train.overlap",
    "train.compile",
)
"""Keys that change how fast the same thing is computed."""

UNSPECIFIED = "not said"
"""The paper's value of a setting that it leaves open."""

SPECIFIED_ON_IMAGENET = ("data.source", "model.stem")
"""The paper's description of its network on ImageNet, other than on CIFAR: it is the ResNet-50 of He et al. 2016."""


CURVES = ("lc_3", "bp_sub_1", "bp_sub_2", "bp_sub_3")
"""Runs whose accuracy during training is drawn (Figure 7)."""

_BACKPROP, _RESNETS = "train.method=backprop", ("resnet50", "resnet101")

VARIANTS: dict[str, tuple[str, ...]] = {
    "bp": ("vgg", _BACKPROP),
    "dni_3": ("vgg", "train.method=dni"),
    "critic_3": ("vgg", "train.method=critic"),
    "sob_critic_3": ("vgg", "train.method=sobolev_critic"),
    "deep_supervision_3": ("vgg", "train.method=deep_supervision", "critics.weight_schedule=decay"),
    **{f"lc_{count}": ("vgg", f"critics.after={after}") for count, after in AFTER.items()},
    **{
        f"sob_lc_{count}": ("vgg", "train.method=sobolev_local_critic", f"critics.after={after}")
        for count, after in AFTER.items()
    },
    **{f"lc_3_depth_{depths}": ("vgg", f"critics.depth=[{depths.replace('-', ', ')}]") for depths in DEPTHS},
    **{f"lc_3_every_{every}": ("vgg", f"critics.update_every={every}") for every in range(2, 6)},
    **{f"bp_sub_{k}": ("vgg", _BACKPROP, f"model.submodel={k}") for k in range(1, 4)},
    **{f"{resnet}_bp": (resnet, _BACKPROP) for resnet in _RESNETS},
    **{f"{resnet}_lc_3": (resnet,) for resnet in _RESNETS},
}
"""The runs of the paper, of any dataset and seed: a shipped recipe, without the dataset in its name, and overrides."""


@dataclass(frozen=True)
class PaperRun:
    """One run: what is trained, and where it goes."""

    run: str
    """Its name in `VARIANTS`, such as ``lc_3``."""
    source: str
    """What it is trained on."""
    seed: int
    recipe: Recipe

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.run} on {self.source}, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Its run folder: it follows from the recipe, so that tables share runs."""
        return out / self.source / self.run / f"seed-{self.seed}"


def paper_run(run: str, dataset: str, seed: int, scale: Scale) -> PaperRun:
    """The run of that name where the paper trains on `dataset`, at a scale."""
    source = scale.source(dataset)
    return PaperRun(run, source, seed, recipe_of(run, source, seed, scale))


def recipe_of(run: str, source: str, seed: int, scale: Scale) -> Recipe:
    """The recipe of a run: the paper holds out no validation images, and neither does this."""
    backbone, *changes = VARIANTS[run]
    overrides = [f"name={run}", f"data.source={source}", "data.val_size=0", *scale.overrides, f"train.seed={seed}"]
    if run in CURVES:
        overrides.append(f"train.evaluate_every={scale.curve_every}")
    if run == RECORDED_RUN:
        overrides.append(f"logging.sample_losses={RECORDED_IMAGES}")
    shipped = "imagenet" if source == "imagenet" else "cifar10"  # which CIFAR-100 shares but for its images
    return recipes.load(f"{backbone}_{shipped}", [*overrides, *changes])


def trains_the_same(recipe: Recipe, other: Recipe) -> bool:
    """Whether two recipes give the same weights, whatever their speed and logging."""
    return _settings(recipe) == _settings(other)


def differences(run: str, dataset: str, scale: Scale) -> dict[str, tuple[Any, Any]]:
    """Settings in which a run at this scale differs from the paper's: key, and the values there and here.

    Of ImageNet the paper says little more than the network. Where the shipped recipe differs there from the
    one on CIFAR, the choice is ours, so it is a difference at every scale, from `UNSPECIFIED`.
    """
    theirs = _settings(recipe_of(run, dataset, 0, SCALES["paper"]))
    if dataset == "imagenet":
        on_cifar = _settings(recipe_of(run, "cifar10", 0, SCALES["paper"]))
        chosen = [key for key in theirs if theirs[key] != on_cifar[key] and key not in SPECIFIED_ON_IMAGENET]
        theirs |= dict.fromkeys(chosen, UNSPECIFIED)
    ours = _settings(recipe_of(run, scale.source(dataset), 0, scale))
    return {key: (theirs.get(key), ours.get(key)) for key in theirs | ours if theirs.get(key) != ours.get(key)}


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Every key that changes a result, with its section and value."""
    content = recipe.model_dump(mode="json")
    sections = {section: keys if isinstance(keys, dict) else {"": keys} for section, keys in content.items()}
    names = {f"{section}.{key}".rstrip("."): value for section, keys in sections.items() for key, value in keys.items()}
    skipped = {*RECORDING, *SPEED}
    return {name: value for name, value in names.items() if not {name, name.partition(".")[0]} & skipped}
