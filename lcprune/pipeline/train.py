"""Training a recipe into a run folder, and going on with one that was stopped."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from lcprune import __version__, runs
from lcprune import recipe as recipes
from lcprune.analysis.balanced import balanced_accuracies_pct
from lcprune.analysis.curves import recording_steps
from lcprune.analysis.evaluate import accuracies_pct
from lcprune.analysis.representation import label_ordered
from lcprune.data import sources
from lcprune.data.loaders import TrainLoader
from lcprune.data.sampling import Targets, class_weights
from lcprune.data.sources import Dataset
from lcprune.data.stream import FileImages
from lcprune.data.streaming import Streaming, StreamLoader
from lcprune.errors import LcpruneError, NotFiniteError, RunError, SetupError
from lcprune.models import Network, Whitening
from lcprune.models.pretrained import load_pretrained
from lcprune.pipeline import stored
from lcprune.pipeline.cuts import balance
from lcprune.pipeline.trial import refuse_what_cannot_train
from lcprune.recipe import Recipe
from lcprune.report.tables import balance_line
from lcprune.training import averaging, checkpoint, precision
from lcprune.training.checkpoint import TrainingState
from lcprune.training.determinism import deterministic
from lcprune.training.loop import RETRY_FACTOR, Evaluation, Listener, LoggedStep, Plan, fit, predict_logits
from lcprune.training.methods import Method, build_method
from lcprune.training.optim import build_optimizers
from lcprune.training.recording import LossRecord
from lcprune.training.step import compile_parts

RESUMABLE_KEYS = (
    "train.iterations",
    "train.epochs",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.on_nonfinite",
    "logging.every",
)
"""What `resume` may change: the length, the intervals, and what happens where numbers are no longer finite."""

MAX_RETRIES = 3
"""How often a run goes back because a number is no longer finite, where the recipe lets it."""

MUCH_WAITING = 0.3
"""Part of the time that training waits for images, from which on a person should know."""

Notice = Callable[[str], None]
Display = Callable[[int, int, tuple[str, ...]], AbstractContextManager[Listener]]
"""Makes the display of a run from its iterations, the steps that are done and the names of its exits."""


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    run: Path
    exit_names: tuple[str, ...]
    iterations: int
    seconds: float
    """Time spent in training, over all sessions."""
    val_accuracy_pct: tuple[float, ...]
    """Of every exit; empty without validation images."""
    test_accuracy_pct: tuple[float, ...]
    """Of every exit; empty without test images."""
    val_balanced_accuracy_pct: tuple[float, ...] = ()
    """Likewise, the mean over the classes: what accuracy would be if all had as many images."""
    test_balanced_accuracy_pct: tuple[float, ...] = ()
    bad_images: tuple[str, ...] = ()
    """Damaged files that were left out."""


def train(
    recipe: Recipe,
    *,
    out: Path | None,
    data_root: Path,
    device: str,
    display: Display,
    notice: Notice,
    is_latest: bool = True,
) -> Trained:
    """Trains a recipe into a new run folder.

    Args:
        recipe: What to train.
        out: The run folder; None makes ``runs/<name>-<n>``.
        data_root: Where the images are, unless the recipe says.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        display: Shows the progress.
        notice: Is told what a person should know.
        is_latest: Whether ``runs/latest`` names the run from now on.

    Raises:
        LcpruneError: For what the user can mend. Nothing is written before data and network are known to fit.
    """
    on = choose_device(device)
    data_root = data_root.resolve()
    dataset = sources.load(recipe.data, data_root, recipe.train.seed)
    facts = stored.facts_of(dataset, data_root)
    network = stored.build_network(recipe, facts)
    for line in load_pretrained(network, recipe.model):
        notice(line)
    if groups := balance(network, facts.image_shape):
        notice(balance_line(groups))
    loader = _loader(recipe, dataset, on)
    refuse_what_cannot_train(network, facts, recipe.data.batch_size)

    def prepare(folder: Path) -> None:
        runs.write_json(folder / runs.ENVIRONMENT, environment(recipe, on))
        stored.write_facts(folder, facts)

    folder = runs.create(recipe, out, prepare, is_latest=is_latest)
    notice(f"run folder: {folder}")
    with runs.lock(folder):
        return _run(folder, recipe, dataset, network, loader, on, display, notice)


def resume(folder: Path, overrides: Sequence[str], *, device: str, display: Display, notice: Notice) -> Trained:
    """Goes on with a run from its newest checkpoint, or from the start where none was written yet.

    No other process may train in the folder meanwhile.

    Raises:
        LcpruneError: If there is no such run, its checkpoints are damaged, or `overrides` change more than the length
            and the intervals.
    """
    folder, recipe = runs.open_run(folder)
    if overrides:
        recipe = _with_overrides(folder, recipe, overrides)
    on = choose_device(device)
    with runs.lock(folder):
        dataset, facts = stored.load_dataset(folder, recipe)
        network = stored.build_network(recipe, facts)
        if not checkpoint.exists(folder / runs.CHECKPOINTS):
            load_pretrained(network, recipe.model)
        return _run(folder, recipe, dataset, network, _loader(recipe, dataset, on), on, display, notice)


def iterations_of(recipe: Recipe, steps_per_epoch: int) -> int:
    """Steps of the whole run, whether the recipe counts them or epochs."""
    train = recipe.train
    return train.iterations or max(1, round((train.epochs or 0) * steps_per_epoch))


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


def environment(recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """What a run's results depend on besides the recipe."""
    packages = ("torch", "torchvision", "numpy", "onnx", "onnxruntime", "fvcore")
    return {
        "lcprune": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in packages},
        "command": ["lcprune", *sys.argv[1:]],
        "cores": os.cpu_count(),
        **_surroundings(recipe, device),
    }


def _surroundings(recipe: Recipe, device: torch.device) -> dict[str, str | int]:
    """What bit-equality depends on."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "threads": torch.get_num_threads(),
        "device": f"{device.type} ({kind})",
        "memory_format": "channels_last" if recipe.train.channels_last else "contiguous",
        "precision": precision.resolve(recipe.train.precision, device),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),  # a TorchVersion could not be read back with weights_only
    }


def _loader(recipe: Recipe, dataset: Dataset, device: torch.device) -> TrainLoader | StreamLoader:
    data, labels = recipe.data, dataset.train.labels
    weights = class_weights(labels, len(dataset.classes))
    drawn = weights[torch.from_numpy(labels)] if data.balance == "sampling" else None
    targets = Targets(
        classes=len(dataset.classes),
        seed=recipe.train.seed,
        mixup=data.mixup,
        cutmix=data.cutmix,
        loss_weights=weights if data.balance == "loss" else None,
    )
    common: dict[str, Any] = {
        "batch_size": data.batch_size,
        "pad": data.pad,
        "seed": recipe.train.seed,
        "flip": data.flip,
    }
    to: dict[str, Any] = {
        "device": device,
        "channels_last": recipe.train.channels_last,
        "targets": targets,
        "weights": drawn,
    }
    in_memory = not isinstance(dataset.train.images, FileImages)
    if in_memory and data.augment != "resized_crop" and data.augment != "randaugment":
        return TrainLoader(dataset.train, augment=data.augment, **common, **to)
    streaming = Streaming(augment=data.augment, interpolation=data.interpolation, workers=data.workers, **common)
    return StreamLoader(dataset.train, streaming, **to)


def _with_overrides(folder: Path, recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key not in RESUMABLE_KEYS:
            raise RunError(
                f"resume cannot change {key}: the run would no longer be what its recipe says",
                f"change only {', '.join(RESUMABLE_KEYS)}, or train a new run with --set {override}",
            )
    return recipes.parse(recipes.dump(recipe), str(folder / runs.RECIPE), overrides)


def _run(
    folder: Path,
    recipe: Recipe,
    dataset: Dataset,
    network: Network,
    loader: TrainLoader | StreamLoader,
    device: torch.device,
    display: Display,
    notice: Notice,
) -> Trained:
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    network.to(device).to(memory_format=memory_format)
    iterations = iterations_of(recipe, loader.steps_per_epoch)
    method = build_method(recipe, network, iterations)
    if recipe.train.compile:
        compile_parts(method)
    state = TrainingState(network, build_optimizers(recipe, network), average=averaging.new_average(recipe, network))
    torch.manual_seed(recipe.train.seed)
    surroundings = _surroundings(recipe, device)
    _restore(folder, state, surroundings, notice)
    if state.step == 0:
        _whiten(network, dataset)
    if state.step > iterations:
        raise RunError(
            f"{folder} has done {state.step} steps already, which is more than {iterations}",
            "resume to a greater length, or train a new run",
        )
    runs.write_text(folder / runs.RECIPE, recipes.dump(recipe))  # with the overrides of `resume`, now that they fit
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
    bad_images = (*dataset.skipped, *found_on_the_way)
    _tell_of_bad_images(folder, bad_images, notice)
    return replace(_finish(folder, recipe, dataset, state, device, notice), bad_images=bad_images)


def _fit(plan: Plan, method: Method, state: TrainingState, display: Display, notice: Notice) -> None:
    """Trains to the end of the plan; where the recipe lets it, it goes back when a number is no longer finite."""
    retries = plan.recipe.train.on_nonfinite == "retry"
    if retries and not checkpoint.exists(plan.checkpoints):
        checkpoint.rotate(plan.checkpoints, state, plan.surroundings)
    while True:
        if plan.loss_record is not None:
            plan.loss_record.forget_after(state.step)
        metrics = plan.checkpoints.parent / runs.METRICS
        try:
            with display(plan.iterations, state.step, state.network.exit_names) as shown:
                fit(plan, method, state, _Recorder(metrics, state.step, shown, loading_hint(plan.recipe), notice))
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
    checkpoint.restore(state, content)
    if state.average is not None and content.get("average") is None:
        state.average.n_averaged.zero_()  # what it has collected since is no part of it
    state.retries = retries
    notice(
        f"{error.problem}: going back to step {state.step}, and on with {RETRY_FACTOR**retries:g} of the learning rate "
        f"(retry {retries} of {MAX_RETRIES})"
    )


def loading_hint(recipe: Recipe) -> str:
    """What may be changed where training waits for images."""
    data, cores = recipe.data, os.cpu_count() or 1
    ways = ["read them once: data.cache=disk"] if data.cache == "none" else []
    if data.workers < cores:
        ways.append(f"read them beside training: data.workers={cores}")
    return "; ".join(ways) or "take a smaller data.resize, or store the images smaller"


def _tell_of_bad_images(folder: Path, paths: Sequence[str], notice: Notice) -> None:
    if not paths:
        return
    runs.write_json(folder / runs.BAD_IMAGES, {"count": len(paths), "paths": list(paths)})
    shown = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
    notice(f"damaged images left out: {len(paths)} ({shown}); all are named in {folder / runs.BAD_IMAGES}")


def _loss_record(folder: Path, recipe: Recipe, dataset: Dataset, iterations: int) -> LossRecord | None:
    count = recipe.logging.sample_losses
    if not count:
        return None
    images = dataset.train.subset(label_ordered(dataset.train.labels, count))
    return LossRecord(folder / runs.SAMPLE_LOSSES, images, frozenset(recording_steps(iterations)))


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


def _finish(
    folder: Path, recipe: Recipe, dataset: Dataset, state: TrainingState, device: torch.device, notice: Notice
) -> Trained:
    """Writes weights and predictions of a run whose steps are done."""
    stored.write_weights(folder, state.network)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        shape = (len(state.network.groups), 0, len(dataset.classes))
        empty = np.zeros(shape, np.float32)
        logits = (
            predict_logits(state.network, split, device, recipe.train.channels_last).numpy()
            if len(split.labels)
            else empty
        )
        arrays |= {f"{name}_logits": logits, f"{name}_labels": split.labels}
    _write_predictions(folder, arrays, notice)
    accuracies, balanced = (
        {
            name: measure(arrays[f"{name}_logits"], arrays[f"{name}_labels"]) if len(arrays[f"{name}_labels"]) else ()
            for name in ("val", "test")
        }
        for measure in (accuracies_pct, balanced_accuracies_pct)
    )
    return Trained(
        run=folder,
        exit_names=state.network.exit_names,
        iterations=state.step,
        seconds=state.seconds,
        val_accuracy_pct=accuracies["val"],
        test_accuracy_pct=accuracies["test"],
        val_balanced_accuracy_pct=balanced["val"],
        test_balanced_accuracy_pct=balanced["test"],
    )


def _write_predictions(folder: Path, arrays: dict[str, np.ndarray[Any, Any]], notice: Notice) -> None:
    """Writes the logits; what was made of others, before a run was made longer, holds no more and is removed."""
    path = folder / runs.PREDICTIONS
    before = runs.sha256(path) if path.exists() else None
    runs.write_predictions(folder, arrays)
    if before is None or runs.sha256(path) == before:
        return
    decided = [name for name in (runs.SELECTION, runs.THRESHOLDS) if (folder / name).exists()]
    pages = [name for name in runs.recorded_files(folder) if name.endswith((".html", ".htm"))]
    runs.remove(folder, runs.PROFILE, *decided, *pages)  # the costs are measured again when they are asked for
    if decided:
        notice(f"{' and '.join(decided)} removed: the network has changed since; select and export again")
    if pages:
        notice(f"{' and '.join(pages)} removed: the network has changed since; report again")


class _Recorder:
    """Appends to ``metrics.jsonl``, and passes everything on to the display."""

    def __init__(self, path: Path, step: int, shown: Listener, hint: str, notice: Notice) -> None:
        """Drops the lines of `path` after `step`: a resumed run writes them again.

        `notice` is told `hint` once, where training waits for images for more than `MUCH_WAITING` of the time.
        """
        self._path = path
        self._shown = shown
        self._hint = hint
        self._notice = notice
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            runs.write_text(path, "".join(f"{line}\n" for line in kept))

    def stepped(self, step: int, logged: LoggedStep | None) -> None:
        """See `Listener`."""
        if logged is not None:
            self._append({key: value for key, value in asdict(logged).items() if value is not None})
        self._shown.stepped(step, logged)
        if logged is not None and self._hint and (logged.wait_share or 0) > MUCH_WAITING:
            self._notice(
                f"{logged.images_per_s:.0f} images/s; training waits for images {100 * (logged.wait_share or 0):.0f} % "
                f"of the time. {self._hint}"
            )
            self._hint = ""

    def evaluated(self, evaluation: Evaluation) -> None:
        """See `Listener`."""
        line = asdict(evaluation)
        if evaluation.test_accuracy_pct is None:
            del line["test_accuracy_pct"]
        self._append(line)
        self._shown.evaluated(evaluation)

    def _append(self, line: dict[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise LcpruneError(
                f"{self._path} cannot be written: {error.strerror}", "free the disk, then resume"
            ) from None


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash
