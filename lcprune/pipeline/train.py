"""Training a recipe into a run folder, and going on with one that was stopped."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from lcprune import __version__, runs
from lcprune import recipe as recipes
from lcprune.analysis.evaluate import accuracies_pct
from lcprune.data import sources
from lcprune.data.loaders import TrainLoader
from lcprune.data.sources import Dataset
from lcprune.errors import LcpruneError, RunError, SetupError
from lcprune.models import Network, Whitening
from lcprune.pipeline import stored
from lcprune.recipe import Recipe
from lcprune.training import averaging, checkpoint, precision
from lcprune.training.checkpoint import TrainingState
from lcprune.training.loop import Evaluation, Listener, LoggedStep, Plan, fit, predict_logits
from lcprune.training.methods import build_method
from lcprune.training.optim import build_optimizers
from lcprune.training.step import compile_parts

RESUMABLE_KEYS = ("train.iterations", "train.epochs", "train.evaluate_every", "train.checkpoint_every", "logging.every")
"""What `resume` may change: the length and the intervals."""

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


def train(
    recipe: Recipe, *, out: Path | None, data_root: Path, device: str, display: Display, notice: Notice
) -> Trained:
    """Trains a recipe into a new run folder.

    Args:
        recipe: What to train.
        out: The run folder; None makes ``runs/<name>-<n>``.
        data_root: Where the images are, unless the recipe says.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        display: Shows the progress.
        notice: Is told what a person should know.

    Raises:
        LcpruneError: For what the user can mend. Nothing is written before data and network are known to fit.
    """
    on = choose_device(device)
    data_root = data_root.resolve()
    dataset = sources.load(recipe.data, data_root, recipe.train.seed)
    facts = stored.facts_of(dataset, data_root)
    network = stored.build_network(recipe, facts)
    loader = _loader(recipe, dataset, on)
    folder = runs.create(recipe, out)
    notice(f"run folder: {folder}")
    runs.write_json(folder / runs.ENVIRONMENT, environment(recipe, on))
    stored.write_facts(folder, facts)
    return _run(folder, recipe, dataset, network, loader, on, display, notice)


def resume(folder: Path, overrides: Sequence[str], *, device: str, display: Display, notice: Notice) -> Trained:
    """Goes on with a run from its newest checkpoint, or from the start where none was written yet.

    Raises:
        LcpruneError: If there is no such run, its checkpoints are damaged, or `overrides` change more than the length
            and the intervals.
    """
    folder, recipe = runs.open_run(folder)
    if overrides:
        recipe = _with_overrides(folder, recipe, overrides)
    on = choose_device(device)
    dataset, facts = stored.load_dataset(folder, recipe)
    network = stored.build_network(recipe, facts)
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
        "torch": str(torch.__version__),  # a TorchVersion could not be read back with weights_only
    }


def _loader(recipe: Recipe, dataset: Dataset, device: torch.device) -> TrainLoader:
    return TrainLoader(
        dataset.train,
        batch_size=recipe.data.batch_size,
        augment=recipe.data.augment,
        pad=recipe.data.pad,
        seed=recipe.train.seed,
        device=device,
        channels_last=recipe.train.channels_last,
        flip=recipe.data.flip,
    )


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
    loader: TrainLoader,
    device: torch.device,
    display: Display,
    notice: Notice,
) -> Trained:
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    network.to(device).to(memory_format=memory_format)
    method = build_method(recipe, network)
    if recipe.train.compile:
        compile_parts(method)
    state = TrainingState(network, build_optimizers(recipe, network), average=averaging.new_average(recipe, network))
    torch.manual_seed(recipe.train.seed)
    surroundings = _surroundings(recipe, device)
    _restore(folder, state, surroundings, notice)
    if state.step == 0:
        _whiten(network, dataset)
    iterations = iterations_of(recipe, loader.steps_per_epoch)
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
    )
    with display(plan.iterations, state.step, network.exit_names) as shown:
        fit(plan, method, state, _Recorder(folder / runs.METRICS, state.step, shown))
    if state.average is not None:
        _settle(state.average, plan, state)
    return _finish(folder, recipe, dataset, state, device, notice)


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
    accuracies = {
        name: accuracies_pct(arrays[f"{name}_logits"], arrays[f"{name}_labels"])
        if len(arrays[f"{name}_labels"])
        else ()
        for name in ("val", "test")
    }
    return Trained(
        run=folder,
        exit_names=state.network.exit_names,
        iterations=state.step,
        seconds=state.seconds,
        val_accuracy_pct=accuracies["val"],
        test_accuracy_pct=accuracies["test"],
    )


def _write_predictions(folder: Path, arrays: dict[str, np.ndarray[Any, Any]], notice: Notice) -> None:
    """Writes the logits; what was decided on others, before a run was made longer, holds no more and is removed."""
    path = folder / runs.PREDICTIONS
    before = runs.sha256(path) if path.exists() else None
    runs.write_predictions(folder, arrays)
    decided = [name for name in (runs.SELECTION, runs.THRESHOLDS) if (folder / name).exists()]
    if decided and runs.sha256(path) != before:
        runs.remove(folder, *decided)
        notice(f"{' and '.join(decided)} removed: the network has changed since; select and export again")


class _Recorder:
    """Appends to ``metrics.jsonl``, and passes everything on to the display."""

    def __init__(self, path: Path, step: int, shown: Listener) -> None:
        """Drops the lines of `path` after `step`: a resumed run writes them again."""
        self._path = path
        self._shown = shown
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            runs.write_text(path, "".join(f"{line}\n" for line in kept))

    def stepped(self, step: int, logged: LoggedStep | None) -> None:
        """See `Listener`."""
        if logged is not None:
            self._append(asdict(logged))
        self._shown.stepped(step, logged)

    def evaluated(self, evaluation: Evaluation) -> None:
        """See `Listener`."""
        self._append(asdict(evaluation))
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
