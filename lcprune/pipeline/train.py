"""`lcprune train`, its dry run and `lcprune resume`: load, build, connect, make the run folder; then `fit`."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from lcprune import models, runs
from lcprune import recipe as recipes
from lcprune.analysis.counting import count_cost
from lcprune.data import sources
from lcprune.data.survey import training_remarks
from lcprune.errors import RecipeError, RunError, SetupError
from lcprune.models.backbones import auto_cuts
from lcprune.models.check import check_forward_pass
from lcprune.models.pretrained import load_pretrained
from lcprune.pipeline import stored
from lcprune.pipeline.batches import loader_of
from lcprune.pipeline.cuts import balance
from lcprune.pipeline.environment import environment
from lcprune.pipeline.fit import Display, Notice, Trained, fit
from lcprune.pipeline.parallel_run import begun_before_a_restart, launches_of, options_before
from lcprune.pipeline.tensorboard import require_tensorboard
from lcprune.recipe import Recipe
from lcprune.reporting.tables import balance_line
from lcprune.specs import METHODS
from lcprune.training import checkpoint
from lcprune.training.parallel import Coordinator, ParallelOptions, connect

__all__ = ["Display", "Notice", "Trained", "choose_device", "dry_run", "resume", "train"]

RESUMABLE_KEYS = (
    "train.iterations",
    "train.epochs",
    "train.evaluate_every",
    "train.early_stopping",
    "train.checkpoint_every",
    "train.on_nonfinite",
    "logging.every",
    "logging.tensorboard",
)
"""What `resume` may change: the length, the intervals, and what happens after numbers that are not finite."""


def train(
    recipe: Recipe,
    *,
    out: Path | None,
    data_root: Path | None,
    device: str,
    display: Display,
    notice: Notice,
    is_latest: bool = True,
    parallel: ParallelOptions | None = None,
) -> Trained:
    """Trains a recipe into a new run folder.

    Restarted by torchrun after the loss of a rank, it continues the run that it had begun.

    Args:
        recipe: What to train.
        out: The run folder; None makes ``runs/<name>-<n>``.
        data_root: Where the images are; None: as the recipe says.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        display: Shows the progress.
        notice: Receives messages for the user.
        is_latest: Whether ``runs/latest`` names the run from now on.
        parallel: How the ranks of torchrun divide the work; None: each process is alone.

    Raises:
        LcpruneError: For what the user can fix. Nothing is written before data and network have been checked.
    """
    on = choose_device(device)
    if recipe.logging.tensorboard:
        require_tensorboard()
    images_folder = recipe.data.folder(data_root).resolve()
    dataset = sources.load(recipe.data, data_root, recipe.train.seed)
    _require_validation(recipe, dataset)
    if recipe.data.has_files:
        for line in training_remarks(images_folder, recipe.data.manifest, dataset.train.images):
            notice(line)
    recipe = with_cuts(recipe, len(dataset.classes), dataset.image_shape)
    network = stored.build_network(recipe, dataset)
    for line in load_pretrained(network, recipe.model):
        notice(line)
    if groups := balance(network, dataset.image_shape):
        notice(balance_line(groups))
    with connect(parallel, len(network.groups), on) as coordinator:
        loader = loader_of(recipe, dataset, coordinator)
        check_forward_pass(network, dataset.image_shape, recipe.data.batch_size)
        launches = launches_of(coordinator)

        def prepare(folder: Path) -> None:
            began = environment(recipe.train.precision, recipe.train.channels_last, coordinator)
            runs.write_json(folder / runs.ENVIRONMENT, began | ({"launches": launches} if launches else {}))
            stored.write_facts(folder, stored.facts_of(dataset, images_folder))

        def begin() -> Path:
            begun = begun_before_a_restart(out, launches)
            if begun is not None:
                notice("started again after a process was lost")
            return begun or runs.create(recipe, out, prepare, is_latest=is_latest)

        folder = coordinator.broadcast(begin)
        notice(f"run folder: {folder}")
        with _locked(folder, coordinator):
            return fit(folder, recipe, dataset, network, loader, coordinator, display, notice)


def resume(
    folder: Path,
    overrides: Sequence[str],
    *,
    data_root: Path | None = None,
    device: str,
    display: Display,
    notice: Notice,
    parallel: ParallelOptions | None = None,
) -> Trained:
    """Continues a run from its newest checkpoint, or from the start if none was written yet.

    No other process may train in the folder meanwhile. The number of ranks may differ from before.

    Args:
        folder: Of the run.
        overrides: ``KEY=VALUE`` of the keys that may change.
        data_root: Folder of the run's images, if they have moved.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        display: Shows the progress.
        notice: Receives messages for the user.
        parallel: How the ranks of torchrun divide the work; what it leaves out is as the run was begun. None: each
            process is alone.

    Raises:
        LcpruneError: If there is no such run, its checkpoints are damaged, or `overrides` change more than the length
            and the intervals.
    """
    folder, recipe = runs.open_run(folder)
    if overrides:
        recipe = _with_overrides(folder, recipe, overrides)
    on = choose_device(device)
    if recipe.logging.tensorboard:
        require_tensorboard()
    dataset, _ = stored.load_dataset(folder, recipe, data_root)
    _require_validation(recipe, dataset)
    network = stored.build_network(recipe, dataset)
    options = parallel and options_before(folder, parallel)
    with connect(options, len(network.groups), on) as coordinator, _locked(folder, coordinator):
        if not checkpoint.exists(folder / runs.CHECKPOINTS):
            load_pretrained(network, recipe.model)
        loader = loader_of(recipe, dataset, coordinator)
        return fit(folder, recipe, dataset, network, loader, coordinator, display, notice)


def dry_run(recipe: Recipe, data_root: Path | None) -> dict[str, Any]:
    """The resolved recipe, and the cost of every sub-model of the untrained network."""
    classes, image_shape = sources.describe(recipe.data, data_root)
    ones = (1.0,) * image_shape[0]
    recipe = with_cuts(recipe, classes, image_shape)
    network = models.build(recipe, classes, image_shape, ones, ones)
    if recipe.model.weights not in ("none", "default"):  # these are downloaded
        load_pretrained(network, recipe.model)
    cost = count_cost(network, image_shape)
    keys = ("name", "exit_index", "macs", "params", *(["image_size"] if network.image_sizes else []))
    candidates = [
        {**{key: getattr(row, key) for key in keys}, "macs_ratio": row.macs / cost.exits[-1].macs} for row in cost.exits
    ]
    groups = balance(network, image_shape)
    return {
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "candidates": candidates,
        "cascade_macs": cost.cascade.exit_macs()[-1],
        **({"groups": groups} if groups else {}),
    }


def with_cuts(recipe: Recipe, classes: int, image_shape: tuple[int, int, int]) -> Recipe:
    """The recipe with the places where its network is cut, where it has critics."""
    only_main = METHODS[recipe.train.method].side is None and recipe.model.submodel is None
    model = recipe.model
    if only_main or not recipe.critics.after or not model.is_external or model.cuts != "auto":
        return recipe
    cuts = auto_cuts(model.trunk, model.groups, classes, image_shape, recipe.train.seed)
    return recipe.model_copy(update={"model": model.model_copy(update={"cuts": cuts})})


def choose_device(name: str) -> torch.device:
    """The device that a user named; ``auto`` is the fastest that is here.

    Raises:
        SetupError: If it is not here.
    """
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if here[kind]))
    if not here[name]:
        raise SetupError(f"there is no {name} device here", "use --device auto")
    return torch.device(name)


def _require_validation(recipe: Recipe, dataset: sources.Dataset) -> None:
    if recipe.train.early_stopping and not len(dataset.val.labels):
        raise RecipeError(
            "train.early_stopping decides by the accuracy on validation images, and there are none",
            "hold some out with data.val_size, or leave train.early_stopping out",
        )


def _locked(folder: Path, coordinator: Coordinator) -> AbstractContextManager[None]:
    """Locks the folder against other trainings; of several ranks, the writer does."""
    return runs.lock(folder) if coordinator.is_writer else nullcontext()


def _with_overrides(folder: Path, recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key not in RESUMABLE_KEYS:
            raise RunError(
                f"resume cannot change {key}: the run would no longer be what its recipe says",
                f"change only {', '.join(RESUMABLE_KEYS)}, or train a new run with --set {override}",
            )
    return recipes.parse(recipes.dump(recipe), str(folder / runs.RECIPE), overrides)
