"""The models of the comparison with pruning: each is made once, and kept with its figures beside the run."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import pruning
from benchmarks.commands import once
from benchmarks.provenance import Row
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
from lcprune.pipeline.batches import loader_of
from lcprune.pipeline.info import RunInfo, file_info
from lcprune.pipeline.stored import load_dataset, load_network
from lcprune.recipe import Recipe
from lcprune.training.parallel import Coordinator
from lcprune.training.predicting import predict_logits
from lcprune_runtime.metadata import ModelInfo

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

    def write(self, network: Network, exits: Sequence[int], path: Path, info: ModelInfo) -> None:
        """Exports with some exits, checked with validation images."""
        write_network(network, exits, path, info, self.dataset.val.images[:PARITY_IMAGES])


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
    loader = loader_of(recipe, dataset, Coordinator())
    preparation = sources.preparation(recipe.data, facts.image_shape)
    info = RunInfo(facts, preparation, runs.sha256(folder / runs.RECIPE), cost.cascade.main_macs)
    return Subject(recipe, network, info, dataset, cost, runs.read_predictions(folder), loader, models)


def submodel(subject: Subject, k: int) -> Row:
    """Sub-model `k`, from 1; the last one is main."""

    def make(path: Path) -> Row:
        cost = subject.cost.exits[k - 1]
        started = pruning.clock()
        info = file_info(subject.info, subject.cost.kept([k - 1]))
        subject.write(subject.network.truncated(k), (), path, info)
        taken_s = pruning.clock() - started
        arrays = subject.arrays
        val, test = (accuracies_pct(arrays[f"{each}_logits"], arrays[f"{each}_labels"]) for each in ("val", "test"))
        return {
            "kind": "main" if k == len(subject.cost.exits) else "sub-model",
            "name": cost.name,
            **_cost(subject, cost.macs, cost.params),
            "val_accuracy_pct": val[k - 1],
            "test_accuracy_pct": test[k - 1],
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
        subject.write(subject.network, chosen.exits, path, info)
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
    attempt = partial(_attempt, subject, share, round_to)
    trials = {name: attempt(name, rates[0], trial_s, is_trial=True) for name in pruning.CRITERIA}
    scores = {name: row["val_accuracy_pct"] for name, row in trials.items() if "val_accuracy_pct" in row}
    if not scores:
        return {"file": ""}
    criterion = max(scores, key=lambda name: scores[name])
    made = [attempt(criterion, lr, seconds, is_trial=False) for lr in rates]
    best = max(made, key=lambda row: row["val_accuracy_pct"])
    others_s = sum(row["time_to_model_s"] for row in (*trials.values(), *made)) - best["time_to_model_s"]
    by_lr = {f"{row['lr']:g}": row["val_accuracy_pct"] for row in made}
    return {**best, "trials_val_accuracy_pct": scores, "lr_val_accuracy_pct": by_lr, "other_attempts_s": others_s}


def _attempt(
    subject: Subject, share: float, round_to: int, criterion: str, lr: float, seconds: float, *, is_trial: bool
) -> Row:
    """Prunes and fine-tunes; a trial is not written to ONNX, and the test images are not read.

    Args:
        subject: Whose main it is.
        share: Of main's MACs, at most.
        round_to: Channels of every layer are a multiple of it.
        criterion: Of `pruning.CRITERIA`.
        lr: Highest learning rate of the fine-tuning.
        seconds: Of computing, for the fine-tuning.
        is_trial: See above.
    """

    def make(path: Path) -> Row:
        torch.manual_seed(subject.recipe.train.seed)
        started = pruning.clock()
        max_macs = int(share * subject.cost.exits[-1].macs)
        network = pruning.prune(subject.network, criterion, max_macs, subject.loader, round_to)
        pruning_s = pruning.clock() - started
        if network is None:
            return {"time_to_model_s": pruning_s}
        steps = pruning.fine_tune(network, subject.recipe, subject.loader, lr, seconds)
        trained_s = pruning.clock() - started
        row = {"val_accuracy_pct": _accuracy_pct(subject, network, "val"), "time_to_model_s": trained_s}
        row |= {"steps": steps, "lr": lr, "pruning_s": pruning_s}
        if is_trial:
            return row
        network.to(memory_format=torch.contiguous_format)
        cost = count_cost(network, subject.info.facts.image_shape)
        started = pruning.clock()
        subject.write(network, (), path, file_info(subject.info, cost))
        row["time_to_model_s"] += pruning.clock() - started
        return row | {
            "kind": "torch-pruning",
            "name": f"pruned to {share:.3g}" + (f" by {round_to}" if round_to > 1 else ""),
            **_cost(subject, cost.exits[0].macs, cost.exits[0].params),
            "test_accuracy_pct": _accuracy_pct(subject, network, "test"),
            "criterion": criterion,
            "round_to": round_to,
            "channels": [part.out_channels for part in network.groups.modules() if isinstance(part, torch.nn.Conv2d)],
        }

    name = f"{share:.4f}-by-{round_to}-{re.sub('[^a-z0-9]+', '-', criterion.lower())}-lr-{lr:g}-{seconds:g}s"
    return _once(subject.out / f"{'trial' if is_trial else 'pruned'}-{name}.onnx", make)


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
