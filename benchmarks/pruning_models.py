"""The models of the comparison with pruning: each is made once, and kept with its figures beside the run."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import pruning
from benchmarks.case import Row
from benchmarks.commands import once
from benchmarks.steps import loader_of
from lcprune import runs
from lcprune.analysis.budget import Family
from lcprune.analysis.cost import NetworkCost
from lcprune.analysis.counting import count_cost, count_params
from lcprune.analysis.evaluate import accuracies_pct, sweep
from lcprune.analysis.thresholds import rows_of
from lcprune.data import sources
from lcprune.data.loaders import TrainLoader
from lcprune.data.sources import Dataset
from lcprune.errors import RunError
from lcprune.exporters.progressive import write_network
from lcprune.models import Network
from lcprune.pipeline.info import RunInfo, file_info
from lcprune.pipeline.stored import load_dataset, load_network
from lcprune.recipe import Recipe
from lcprune.training.predicting import predict_logits

PARITY_IMAGES = 256


@dataclass(frozen=True)
class Subject:
    """A finished run, and where the models that are made of it lie."""

    recipe: Recipe
    network: Network
    info: RunInfo
    dataset: Dataset
    cost: NetworkCost
    arrays: dict[str, np.ndarray[Any, Any]]
    """Of ``predictions.npz``."""
    loader: TrainLoader
    out: Path
    """Belongs to these weights alone."""

    @property
    def parity_images(self) -> np.ndarray[Any, Any]:
        """Validation images that every export is checked with."""
        return self.dataset.val.images[:PARITY_IMAGES]


@dataclass(frozen=True)
class Attempt:
    """A way to prune main and to fine-tune it afterwards."""

    share: float
    """Of main's MACs, at most."""
    round_to: int
    """Channels of every layer are a multiple of it."""
    criterion: str
    """Of `pruning.CRITERIA`."""
    lr: float
    seconds: float
    """Of computing, for the fine-tuning."""

    @property
    def name(self) -> str:
        """The stem of its files."""
        criterion = re.sub(r"[^a-z0-9]+", "-", self.criterion.lower())
        return f"{self.share:.4f}-by-{self.round_to}-{criterion}-lr-{self.lr:g}-{self.seconds:g}s"


def load(run: Path, out: Path | None) -> Subject:
    """The run with its images, network and predictions; `out` is ``RUN/pruning`` where it is left out.

    Raises:
        RunError: If it is not finished, or held out no validation images to decide with.
    """
    folder, recipe = runs.open_run(run)
    network, facts = load_network(folder, recipe)
    dataset, _ = load_dataset(folder, recipe)
    if not len(dataset.val):
        raise RunError(f"{folder} has no validation images", "train with data.val_size above 0")
    models = (out or folder / "pruning") / hashlib.sha256((folder / runs.WEIGHTS).read_bytes()).hexdigest()[:8]
    models.mkdir(parents=True, exist_ok=True)
    cost = count_cost(network, facts.image_shape)
    loader = loader_of(recipe, dataset.train, torch.device("cpu"))
    preparation = sources.preparation(recipe.data, facts.image_shape)
    info = RunInfo(facts, preparation, runs.sha256(folder / runs.RECIPE), cost.cascade.main_macs)
    return Subject(recipe, network, info, dataset, cost, runs.read_predictions(folder), loader, models)


def submodel(subject: Subject, k: int) -> Row:
    """Sub-model `k`, from 1; the last one is main."""

    def make(path: Path) -> Row:
        cost = subject.cost.exits[k - 1]
        started = pruning.clock()
        info = file_info(subject.info, subject.cost.kept([k - 1]))
        write_network(subject.network.truncated(k), (), path, info, subject.parity_images)
        taken_s = pruning.clock() - started
        val, test = (
            accuracies_pct(subject.arrays[f"{split}_logits"][k - 1 : k], subject.arrays[f"{split}_labels"])[0]
            for split in ("val", "test")
        )
        return {
            "kind": "main" if k == len(subject.cost.exits) else "sub-model",
            "name": cost.name,
            **_cost(subject, cost.macs, cost.params),
            "val_accuracy_pct": val,
            "test_accuracy_pct": test,
            "time_to_model_s": taken_s,
        }

    return _once(subject.out / f"sub-model-{k}.onnx", make)


def progressive_model(subject: Subject, budget_pct: float) -> Row:
    """With the exits and thresholds that cost least on validation within a budget; no file if main alone does."""

    def make(path: Path) -> Row:
        arrays, of_cascade = subject.arrays, subject.cost.cascade
        started = pruning.clock()
        rows = rows_of(arrays["val_logits"], arrays["val_labels"], of_cascade)
        chosen = Family({"softmax": rows}).within_drop(budget_pct)
        if chosen is None or not chosen.exits:
            return {}
        kept = [*chosen.exits, len(subject.cost.exits) - 1]
        info = file_info(subject.info, subject.cost.kept(kept), chosen.thresholds)
        write_network(subject.network, chosen.exits, path, info, subject.parity_images)
        taken_s = pruning.clock() - started
        macs = of_cascade.exit_macs(chosen.exits)
        logits = arrays["test_logits"][kept]
        test = sweep(logits, arrays["test_labels"], macs, of_cascade.main_macs, [chosen.thresholds])[0]
        critics = sum(count_params(subject.network.critics[exit_index]) for exit_index in chosen.exits)
        return {
            "kind": "progressive",
            "name": f"progressive, {budget_pct:g} points",
            **_cost(subject, test.mean_macs, subject.cost.exits[-1].params + critics),
            "val_accuracy_pct": chosen.accuracy_pct,
            "test_accuracy_pct": test.accuracy_pct,
            "time_to_model_s": taken_s,
            "val_macs_ratio": chosen.macs_ratio,
            "exits": list(chosen.exits),
            "thresholds": list(chosen.thresholds),
            "exit_fractions": list(test.exit_fractions),
        }

    return _once(subject.out / f"progressive-{budget_pct:g}.onnx", make)


def pruned(
    subject: Subject, share: float, round_to: int, rates: Sequence[float], seconds: float, trial_s: float
) -> Row:
    """Main pruned to a share of its MACs: what is best on validation of what was tried; no file if nothing fits.

    Every criterion is tried with a fine-tuning of `trial_s` at the first of the learning rates; the best one gets the
    whole time, once at each of `rates`. `time_to_model_s` is that of the model that is taken, without the others.
    """
    attempts = [Attempt(share, round_to, name, rates[0], trial_s) for name in pruning.CRITERIA]
    trials = {attempt.criterion: _attempt(subject, attempt, is_trial=True) for attempt in attempts}
    scores = {name: row["val_accuracy_pct"] for name, row in trials.items() if "val_accuracy_pct" in row}
    if not scores:
        return {"file": ""}
    criterion = max(scores, key=lambda name: scores[name])
    made = [_attempt(subject, Attempt(share, round_to, criterion, lr, seconds), is_trial=False) for lr in rates]
    best = max(made, key=lambda row: row["val_accuracy_pct"])
    others_s = sum(row["time_to_model_s"] for row in (*trials.values(), *made)) - best["time_to_model_s"]
    by_lr = {f"{row['lr']:g}": row["val_accuracy_pct"] for row in made}
    return {**best, "trials_val_accuracy_pct": scores, "lr_val_accuracy_pct": by_lr, "other_attempts_s": others_s}


def _attempt(subject: Subject, attempt: Attempt, *, is_trial: bool) -> Row:
    """Prunes and fine-tunes; a trial is not written to ONNX, and the test images are not read."""

    def make(path: Path) -> Row:
        torch.manual_seed(subject.recipe.train.seed)
        started = pruning.clock()
        max_macs = int(attempt.share * subject.cost.exits[-1].macs)
        criterion = pruning.CRITERIA[attempt.criterion]
        network = pruning.prune(subject.network, criterion, max_macs, subject.loader, attempt.round_to)
        if network is None:
            return {"time_to_model_s": pruning.clock() - started}
        pruning_s = pruning.clock() - started
        steps = pruning.fine_tune(network, subject.recipe, subject.loader, attempt.lr, attempt.seconds)
        trained_s = pruning.clock() - started
        val_pct = _accuracy_pct(subject, network, "val")
        row = {"val_accuracy_pct": val_pct, "time_to_model_s": trained_s, "steps": steps, "lr": attempt.lr}
        written = {} if is_trial else _write_pruned(subject, attempt, network, path, trained_s)
        return {**row, "pruning_s": pruning_s, **written}

    prefix = "trial-" if is_trial else "pruned-"
    return _once(subject.out / f"{prefix}{attempt.name}.onnx", make)


def _write_pruned(subject: Subject, attempt: Attempt, network: Network, path: Path, trained_s: float) -> Row:
    """Writes the model and returns its figures; `trained_s` is the time that it took before."""
    network.to(memory_format=torch.contiguous_format)
    cost = count_cost(network, subject.info.facts.image_shape)
    started = pruning.clock()
    write_network(network, (), path, file_info(subject.info, cost), subject.parity_images)
    taken_s = trained_s + pruning.clock() - started
    return {
        "kind": "torch-pruning",
        "name": f"pruned to {attempt.share:.3g}" + (f" by {attempt.round_to}" if attempt.round_to > 1 else ""),
        **_cost(subject, cost.exits[0].macs, cost.exits[0].params),
        "test_accuracy_pct": _accuracy_pct(subject, network, "test"),
        "time_to_model_s": taken_s,
        "criterion": attempt.criterion,
        "round_to": attempt.round_to,
        "channels": [part.out_channels for part in network.groups.modules() if isinstance(part, torch.nn.Conv2d)],
    }


def _once(path: Path, make: Callable[[Path], Row]) -> Row:
    """The row of a model, which is made once; its ``file`` is empty where there is no model."""

    def made() -> Row:
        print(f"{path.stem} ...", flush=True)
        row = make(path)
        written = {"file": path.name, "size_bytes": path.stat().st_size} if path.exists() else {"file": ""}
        return {**row, **written}

    return once(path.with_suffix(".json"), made)


def _cost(subject: Subject, macs: float, params: int) -> Row:
    return {"macs": macs, "macs_ratio": macs / subject.cost.exits[-1].macs, "params": params}


def _accuracy_pct(subject: Subject, network: Network, split: str) -> float:
    images = {"val": subject.dataset.val, "test": subject.dataset.test}[split]
    logits = predict_logits(network, images, torch.device("cpu"), channels_last=False)
    return accuracies_pct(logits.numpy(), images.labels)[-1]
