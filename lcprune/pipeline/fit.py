"""Training in a run folder, from its newest checkpoint to the last file: restore, place, fit, write."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.analysis.evaluate import accuracies_pct, balanced_accuracies_pct
from lcprune.data.loaders import TrainLoader
from lcprune.data.sources import Dataset
from lcprune.errors import NotFiniteError, ProfileError, RunError
from lcprune.models import Network, Whitening
from lcprune.pipeline import stored
from lcprune.pipeline.costs import write_counted
from lcprune.pipeline.environment import reproducibility
from lcprune.pipeline.metrics import Recorder, loading_hint
from lcprune.pipeline.parallel_run import groups_before
from lcprune.pipeline.tensorboard import TensorBoard
from lcprune.recipe import Recipe
from lcprune.training import averaging, checkpoint
from lcprune.training.checkpoint import TrainingState
from lcprune.training.determinism import deterministic
from lcprune.training.loop import RETRY_FACTOR, Listener, Trainer
from lcprune.training.methods import Method
from lcprune.training.optim import build_optimizers
from lcprune.training.parallel import Coordinator
from lcprune.training.step import compile_parts

MAX_RETRIES = 3
"""How often a run goes back to a checkpoint after a number that is not finite, if the recipe allows it."""

Notice = Callable[[str], None]
Display = Callable[[int, int, tuple[str, ...]], AbstractContextManager[Listener]]
"""Makes the display of a run from its iterations, the steps that are done and the names of its exits."""


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    run: Path
    exit_names: tuple[str, ...]
    iterations: int
    """Steps of training."""
    seconds: float
    """Time spent in training, over all sessions."""
    val_accuracy_pct: tuple[float, ...] = ()
    """Of every exit; empty without validation images."""
    test_accuracy_pct: tuple[float, ...] = ()
    """Of every exit; empty without test images."""
    val_balanced_accuracy_pct: tuple[float, ...] = ()
    """Likewise, the mean over the classes: what accuracy would be if all had as many images."""
    test_balanced_accuracy_pct: tuple[float, ...] = ()
    kept_step: int | None = None
    """With `train.early_stopping`: the step whose weights were kept, those of the best evaluation."""
    bad_images: tuple[str, ...] = ()
    """Damaged files that were left out."""

    def as_json(self) -> dict[str, Any]:
        """As ``lcprune train --json`` prints it."""
        accuracies = {name: list(value) for name, value in vars(self).items() if name.endswith("_pct")}
        counts = {"iterations": self.iterations, "seconds": round(self.seconds, 3)}
        counts |= {} if self.kept_step is None else {"kept_step": self.kept_step}
        return {"run": str(self.run), **counts, **accuracies, "bad_images": len(self.bad_images)}


def fit(
    folder: Path,
    recipe: Recipe,
    dataset: Dataset,
    network: Network,
    loader: TrainLoader,
    coordinator: Coordinator,
    display: Display,
    notice: Notice,
) -> Trained:
    """Trains to the end, from the newest checkpoint, and writes the results.

    Args:
        folder: Of the run; no other process may train in it.
        recipe: What to train.
        dataset: The images.
        network: With initial weights; it is trained.
        loader: The training batches of this rank.
        coordinator: Of the ranks that train together.
        display: Shows the progress.
        notice: Receives messages for the user.

    Raises:
        LcpruneError: For what the user can fix.
    """
    trainer = _trainer(folder, recipe, dataset, loader, coordinator)
    state = _fresh_state(recipe, network, coordinator.device)
    torch.manual_seed(recipe.train.seed)
    _restore(trainer, state, notice)
    if state.step == 0:
        for layer in network.modules():
            if isinstance(layer, Whitening):  # the frozen first layer; from then on it is in the checkpoints
                layer.fit(dataset.train.images, network.normalize)
    if state.step > trainer.iterations:
        raise RunError(
            f"{folder} has done {state.step} steps already, which is more than {trainer.iterations}",
            "resume to a greater length, or train a new run",
        )
    method, state = coordinator.place(
        recipe,
        state,
        dataset.image_shape,
        lambda: _fresh_state(recipe, stored.build_network(recipe, dataset), torch.device("cpu")),
        iterations=trainer.iterations,
        groups_before=groups_before(folder, coordinator.stages),
    )
    if recipe.train.compile:
        compile_parts(method)
    if coordinator.is_writer:
        runs.write_text(folder / runs.RECIPE, recipes.dump(recipe))  # with the overrides of `resume`, as they fit
    if coordinator.is_writer and coordinator.world_size > 1:
        runs.write_json(folder / runs.PARALLEL, coordinator.division())
    try:
        with deterministic(recipe.train.deterministic):
            _fit(trainer, method, state, display, notice)
            iterations = state.step
            if recipe.train.early_stopping:
                _go_back_to_best(trainer, state)
            if state.average is not None:
                _settle(state.average, trainer, state)
    finally:
        loader.close()
    return _write(trainer, state, dataset, notice, iterations)


def _trainer(folder: Path, recipe: Recipe, dataset: Dataset, loader: TrainLoader, coordinator: Coordinator) -> Trainer:
    train, logging = recipe.train, recipe.logging
    iterations = train.iterations or max(1, round((train.epochs or 0) * loader.steps_per_epoch))
    record = None
    if logging.sample_losses:
        loss_record = import_module("lcprune.paper.recording").loss_record  # which the product does not import
        record = loss_record(folder / runs.SAMPLE_LOSSES, dataset.train, logging.sample_losses, iterations)
    return Trainer(
        recipe=recipe,
        iterations=iterations,
        loader=loader,
        held_out=dataset.val if len(dataset.val.labels) else dataset.test,
        held_out_name="val" if len(dataset.val.labels) else "test",
        checkpoints=folder / runs.CHECKPOINTS,
        reproducibility=reproducibility(train.precision, train.channels_last, coordinator),
        test_curve=dataset.test if logging.test_curve else None,
        loss_record=record,
        coordinator=coordinator,
    )


def _fresh_state(recipe: Recipe, network: Network, device: torch.device) -> TrainingState:
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    network.to(device).to(memory_format=memory_format)
    average = AveragedModel(network) if recipe.train.average or recipe.train.ema else None
    return TrainingState(network, build_optimizers(recipe, network), average=average)


def _restore(trainer: Trainer, state: TrainingState, notice: Notice) -> None:
    content, complaints = checkpoint.load_newest(trainer.checkpoints)
    for complaint in complaints:
        notice(f"{complaint}; going on from the checkpoint before it")
    if content is None:
        return
    checkpoint.restore(state, content)
    notice(f"going on from step {state.step}")
    before = content["surroundings"]
    for key, now in trainer.reproducibility.items():
        if before.get(key, now) != now:  # an older version recorded fewer
            notice(
                f"{key} was {before[key]} and is {now}: the result will not be bit-identical to an uninterrupted run"
            )


def _fit(trainer: Trainer, method: Method, state: TrainingState, display: Display, notice: Notice) -> None:
    """Trains to the end; after a number that is not finite it goes back, if the recipe allows it."""
    data, retries = trainer.recipe.data, trainer.recipe.train.on_nonfinite == "retry"
    if retries and not checkpoint.exists(trainer.checkpoints):
        trainer.save(state)
    while True:
        if trainer.loss_record is not None:
            trainer.loss_record.forget_after(state.step)
        metrics = trainer.checkpoints.parent / runs.METRICS
        try:
            with display(trainer.iterations, state.step, state.network.exit_names) as listener:
                if trainer.coordinator.is_writer:
                    if trainer.recipe.logging.tensorboard:
                        folder = metrics.with_name(runs.TENSORBOARD)
                        listener = TensorBoard(folder, state.step, state.network.exit_names, listener)
                    hint = loading_hint(data.workers, is_cached=data.cache != "none")
                    listener = Recorder(metrics, state.step, listener, hint, notice)
                trainer.fit(method, state, listener)
            return
        except NotFiniteError as error:
            if not retries:
                raise
            _go_back(trainer, state, error, notice)


def _go_back(trainer: Trainer, state: TrainingState, error: NotFiniteError, notice: Notice) -> None:
    """Restores the newest checkpoint, to retry with lower learning rates.

    Raises:
        NotFiniteError: If there were `MAX_RETRIES` already.
    """
    if state.retries >= MAX_RETRIES:
        lr = trainer.recipe.train.lr / 1000
        raise NotFiniteError(
            f"{error.problem}, with {RETRY_FACTOR**MAX_RETRIES:g} of the learning rate too",
            f"look at the data, and train again with a much lower one: --set train.lr={lr:g}",
        ) from None
    retries = state.retries + 1
    content, _ = checkpoint.load_newest(trainer.checkpoints)
    if content is None:
        raise error
    trainer.coordinator.restore(state, content)
    if state.average is not None and content.get("average") is None:
        state.average.n_averaged.zero_()  # what it has collected since is no part of it
    state.retries = retries
    notice(
        f"{error.problem}: going back to step {state.step}, and on with {RETRY_FACTOR**retries:g} of the learning rate "
        f"(retry {retries} of {MAX_RETRIES})"
    )


def _go_back_to_best(trainer: Trainer, state: TrainingState) -> None:
    """Restores the weights of the best evaluation; the time of the whole run is kept."""
    seconds, path = state.seconds, trainer.checkpoints / checkpoint.BEST
    content = trainer.coordinator.broadcast(lambda: checkpoint.load(path))
    trainer.coordinator.restore(state, content)
    state.seconds = seconds


def _settle(average: AveragedModel, trainer: Trainer, state: TrainingState) -> None:
    """Replaces the weights by their average; counted as training time."""
    started = time.perf_counter()
    averaging.settle(average, state.network, trainer.loader, state.step)
    if trainer.coordinator.device.type == "cuda":
        torch.cuda.synchronize(trainer.coordinator.device)
    state.seconds += time.perf_counter() - started


def _write(trainer: Trainer, state: TrainingState, dataset: Dataset, notice: Notice, iterations: int) -> Trained:
    """Writes weights, logits, costs and the names of bad images; of several ranks, the writer does."""
    folder, coordinator = trainer.checkpoints.parent, trainer.coordinator
    bad_images = tuple(dict.fromkeys(chain(*coordinator.all_gather((*dataset.skipped, *trainer.loader.skipped)))))
    whole = coordinator.gather_state(state)
    if whole is not None:
        stored.write_weights(folder, whole.network)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    accuracies: dict[str, tuple[float, ...]] = {}
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        labels, logits = split.labels, np.zeros((len(state.network.groups), 0, len(dataset.classes)), np.float32)
        if len(labels):
            logits = trainer.predict(state, split).numpy()
            accuracies[f"{name}_accuracy_pct"] = accuracies_pct(logits, labels)
            accuracies[f"{name}_balanced_accuracy_pct"] = balanced_accuracies_pct(logits, labels)
        arrays |= {f"{name}_labels": labels, f"{name}_logits": logits}
    if coordinator.is_writer:
        _write_bad_images(folder, bad_images, notice)
        _write_predictions(folder, arrays, notice)
        _write_costs(trainer, dataset, notice)
    coordinator.close()
    return Trained(
        folder,
        state.network.exit_names,
        iterations,
        state.seconds,
        kept_step=state.step if trainer.recipe.train.early_stopping else None,
        bad_images=bad_images,
        **accuracies,
    )


def _write_bad_images(folder: Path, paths: Sequence[str], notice: Notice) -> None:
    if not paths:
        return
    runs.write_json(folder / runs.BAD_IMAGES, {"count": len(paths), "paths": list(paths)})
    shown = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
    notice(f"damaged images left out: {len(paths)} ({shown}); all are named in {folder / runs.BAD_IMAGES}")


def _write_costs(trainer: Trainer, dataset: Dataset, notice: Notice) -> None:
    """Counts the costs of an uncompiled network; if they cannot be counted, the trained run is still valid."""
    try:
        network = stored.build_network(trainer.recipe, dataset)
        write_counted(trainer.checkpoints.parent, network, dataset.image_shape)
    except ProfileError as error:
        notice(f"the costs of the sub-models are not known: {error.problem}")


def _write_predictions(folder: Path, arrays: dict[str, np.ndarray[Any, Any]], notice: Notice) -> None:
    """Writes the logits; results of older logits, of a shorter run, are removed."""
    path = folder / runs.PREDICTIONS
    before = runs.sha256(path) if path.exists() else None
    runs.write_predictions(folder, arrays)
    if before is None or runs.sha256(path) == before:
        return
    decided = [name for name in (runs.SELECTION, runs.THRESHOLDS) if (folder / name).exists()]
    pages = [name for name in runs.recorded_files(folder) if name.endswith((".html", ".htm"))]
    runs.remove(folder, *decided, *pages)
    if decided:
        notice(f"{' and '.join(decided)} removed: the network has changed since; select and export again")
    if pages:
        notice(f"{' and '.join(pages)} removed: the network has changed since; report again")
