"""Training in a run folder, from its newest checkpoint to the end."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import cast

import torch
from torch.optim.swa_utils import AveragedModel

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.data.loaders import LabelLoader, Loader
from lcprune.data.sources import Dataset
from lcprune.data.streaming import StreamLoader
from lcprune.errors import NotFiniteError, RecipeError, RunError
from lcprune.models import Network, Whitening
from lcprune.pipeline import stored
from lcprune.pipeline.batches import batches_of
from lcprune.pipeline.finish import Trained, finish
from lcprune.pipeline.metrics import Recorder, loading_hint
from lcprune.pipeline.stored import DataFacts
from lcprune.pipeline.surroundings import surroundings_of
from lcprune.pipeline.together import Together, groups_before, processes, write_division
from lcprune.recipe import Recipe
from lcprune.training import averaging, checkpoint
from lcprune.training.checkpoint import TrainingState
from lcprune.training.determinism import deterministic
from lcprune.training.loop import RETRY_FACTOR, Listener, LossRecord, Plan, fit, save
from lcprune.training.methods import Method, build_method
from lcprune.training.optim import build_optimizers
from lcprune.training.parallel.replicas import Replicas, refuse_what_cannot_be_shared
from lcprune.training.parallel.team import Team, join, refuse_what_cannot_be_divided
from lcprune.training.parallel.world import World
from lcprune.training.ranks import Alone, Ranks
from lcprune.training.step import compile_parts

MAX_RETRIES = 3
"""How often a run goes back because a number is no longer finite, where the recipe lets it."""

Notice = Callable[[str], None]
Display = Callable[[int, int, tuple[str, ...]], AbstractContextManager[Listener]]
"""Makes the display of a run from its iterations, the steps that are done and the names of its exits."""


@dataclass(frozen=True)
class Job:
    """A training that is about to begin, or to go on."""

    folder: Path
    recipe: Recipe
    dataset: Dataset
    facts: DataFacts
    network: Network
    device: torch.device
    world: World | None
    """The processes that do it together; None: this one alone."""
    together: Together | None


def iterations_of(recipe: Recipe, steps_per_epoch: int) -> int:
    """Steps of the whole run, whether the recipe counts them or epochs."""
    train = recipe.train
    return train.iterations or max(1, round((train.epochs or 0) * steps_per_epoch))


def loader_of(recipe: Recipe, dataset: Dataset, device: torch.device, world: World | None) -> Loader:
    """What this process learns from: its rows of every batch, and where it has no first layers, their labels alone.

    Raises:
        LcpruneError: If batches cannot be made or shared, or the recipe asks for what several processes cannot do.
    """
    if world is None:
        return batches_of(recipe, dataset, device)
    refuse_what_cannot_be_divided(recipe, world)
    if world.replicas > 1:
        refuse_what_cannot_be_shared(recipe)
    if recipe.logging.sample_losses:
        raise RecipeError(
            "logging.sample_losses are not recorded by several processes", "set logging.sample_losses: 0, or use one"
        )
    loader = batches_of(recipe, dataset, device, Replicas(world.replica_group, device).rows(recipe.data.batch_size))
    return loader if world.stage == 0 else LabelLoader(loader)


def run(job: Job, loader: Loader, display: Display, notice: Notice) -> Trained:
    """Trains to the end and writes what is left.

    Raises:
        LcpruneError: For what the user can mend.
    """
    folder, recipe, dataset, device = job.folder, job.recipe, job.dataset, job.device
    iterations = iterations_of(recipe, loader.steps_per_epoch)
    state = _fresh_state(recipe, job.network, device)
    torch.manual_seed(recipe.train.seed)
    surroundings = surroundings_of(recipe, device, processes(job.world, job.together))
    _restore(folder, state, surroundings, notice)
    if state.step == 0:
        _whiten(job.network, dataset)
    if state.step > iterations:
        raise RunError(
            f"{folder} has done {state.step} steps already, which is more than {iterations}",
            "resume to a greater length, or train a new run",
        )
    method, state, ranks = _place(job, state, iterations)
    if recipe.train.compile:
        compile_parts(method)
    if ranks.is_writer:
        runs.write_text(folder / runs.RECIPE, recipes.dump(recipe))  # with the overrides of `resume`, as they fit
    plan = Plan(
        recipe=recipe,
        iterations=iterations,
        loader=loader,
        held_out=dataset.val if len(dataset.val.labels) else dataset.test,
        held_out_name="val" if len(dataset.val.labels) else "test",
        checkpoints=folder / runs.CHECKPOINTS,
        device=device,
        surroundings=surroundings,
        test_curve=dataset.test if recipe.logging.test_curve else None,
        loss_record=_loss_record(folder, recipe, dataset, iterations),
        ranks=ranks,
    )
    try:
        with deterministic(recipe.train.deterministic):
            _fit(plan, method, state, display, notice)
            if state.average is not None:
                _settle(state.average, plan, state)
    finally:
        if isinstance(loader, StreamLoader):
            loader.close()
    found_on_the_way = loader.skipped if isinstance(loader, StreamLoader) else ()
    with ranks.watched():
        bad_images = ranks.together((*dataset.skipped, *found_on_the_way))
        if ranks.is_writer:
            _tell_of_bad_images(folder, bad_images, notice)
        trained = finish(folder, plan, state, dataset, notice)
        ranks.close()
    return replace(trained, bad_images=bad_images)


def _fresh_state(recipe: Recipe, network: Network, device: torch.device) -> TrainingState:
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    network.to(device).to(memory_format=memory_format)
    return TrainingState(network, build_optimizers(recipe, network), average=averaging.new_average(recipe, network))


def _place(job: Job, state: TrainingState, iterations: int) -> tuple[Method, TrainingState, Ranks]:
    """What this process does, with what, and with whom."""
    if job.world is None or job.together is None:
        return build_method(job.recipe, job.network, iterations), state, Alone()
    cpu = torch.device("cpu")

    def make_whole() -> TrainingState:
        return _fresh_state(job.recipe, stored.build_network(job.recipe, job.facts), cpu)

    team: Team = join(
        job.world,
        job.recipe,
        state,
        job.facts.image_shape,
        make_whole,
        iterations=iterations,
        groups_per_rank=job.together.groups_per_rank or groups_before(job.folder, job.world),
        staleness=job.together.staleness,
    )
    if team.ranks.is_writer:
        write_division(job.folder, job.world, job.together, team.division)
    return team.method, team.state, team.ranks


def _fit(plan: Plan, method: Method, state: TrainingState, display: Display, notice: Notice) -> None:
    """Trains to the end of the plan; where the recipe lets it, it goes back when a number is no longer finite."""
    retries = plan.recipe.train.on_nonfinite == "retry"
    if retries and not checkpoint.exists(plan.checkpoints):
        save(plan, state)
    while True:
        if plan.loss_record is not None:
            plan.loss_record.forget_after(state.step)
        metrics = plan.checkpoints.parent / runs.METRICS
        try:
            with display(plan.iterations, state.step, state.network.exit_names) as shown:
                told: Listener = shown
                if plan.ranks.is_writer:
                    told = Recorder(metrics, state.step, shown, loading_hint(plan.recipe), notice)
                fit(plan, method, state, told)
            return
        except NotFiniteError as error:
            if not retries:
                raise
            _go_back(plan, state, error, notice)


def _go_back(plan: Plan, state: TrainingState, error: NotFiniteError, notice: Notice) -> None:
    """Puts the newest checkpoint back, for another try with lower learning rates.

    Raises:
        NotFiniteError: If there were `MAX_RETRIES` already.
    """
    if state.retries >= MAX_RETRIES:
        raise NotFiniteError(
            f"{error.problem}, with {RETRY_FACTOR**MAX_RETRIES:g} of the learning rate too",
            f"look at the data, and train again with a much lower one: --set train.lr={plan.recipe.train.lr / 1000:g}",
        ) from None
    retries = state.retries + 1
    content, _ = checkpoint.load_newest(plan.checkpoints)
    if content is None:
        raise error
    plan.ranks.restore(state, content)
    if state.average is not None and content.get("average") is None:
        state.average.n_averaged.zero_()  # what it has collected since is no part of it
    state.retries = retries
    notice(
        f"{error.problem}: going back to step {state.step}, and on with {RETRY_FACTOR**retries:g} of the learning rate "
        f"(retry {retries} of {MAX_RETRIES})"
    )


def _tell_of_bad_images(folder: Path, paths: Sequence[str], notice: Notice) -> None:
    if not paths:
        return
    runs.write_json(folder / runs.BAD_IMAGES, {"count": len(paths), "paths": list(paths)})
    shown = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
    notice(f"damaged images left out: {len(paths)} ({shown}); all are named in {folder / runs.BAD_IMAGES}")


def _loss_record(folder: Path, recipe: Recipe, dataset: Dataset, iterations: int) -> LossRecord | None:
    if not recipe.logging.sample_losses:
        return None
    path = folder / runs.SAMPLE_LOSSES
    record = import_module("lcprune.paper.recording").loss_record  # which the product does not import
    return cast("LossRecord", record(path, dataset.train, recipe.logging.sample_losses, iterations))


def _whiten(network: Network, dataset: Dataset) -> None:
    """Finds the weights of the frozen first layer, where there is one. From then on they are in the checkpoints."""
    for layer in network.modules():
        if isinstance(layer, Whitening):
            layer.fit(dataset.train.images, network.normalize)


def _settle(average: AveragedModel, plan: Plan, state: TrainingState) -> None:
    """Gives the network its averaged weights; that is training time too."""
    started = time.perf_counter()
    averaging.settle(average, state.network, plan.loader, plan.iterations)
    if plan.device.type == "cuda":
        torch.cuda.synchronize(plan.device)
    state.seconds += time.perf_counter() - started


def _restore(folder: Path, state: TrainingState, surroundings: dict[str, str | int], notice: Notice) -> None:
    content, complaints = checkpoint.load_newest(folder / runs.CHECKPOINTS)
    for complaint in complaints:
        notice(f"{complaint}; going on from the checkpoint before it")
    if content is None:
        return
    checkpoint.restore(state, content)
    notice(f"going on from step {state.step}")
    before = content["surroundings"]
    for key, now in surroundings.items():
        if before.get(key, now) != now:  # an older version recorded fewer
            notice(f"{key} was {before[key]} and is {now}: the result will not be bit-equal to a run never stopped")
