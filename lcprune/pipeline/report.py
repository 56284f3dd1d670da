"""The page about a run: collects what the folder holds, and writes ``report.html``."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.analysis.budget import Family
from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.representation import Dissimilarities
from lcprune.analysis.thresholds import rows_of
from lcprune.data.sources import Split
from lcprune.errors import LcpruneError, OnnxModelError, RunError
from lcprune.exits import MAIN, exit_label
from lcprune.pipeline import metrics, rdm, stored
from lcprune.pipeline.costs import costs_of
from lcprune.pipeline.curves import read_curves
from lcprune.recipe import Recipe
from lcprune.reporting.page import page
from lcprune.reporting.page.subject import Labelled, Setting, Subject
from lcprune_runtime.metadata import ModelInfo, read_info

DEFAULT_MAX_DROP_PCT = 0.5
"""Points for which thresholds are calibrated where nothing was selected, as `lcprune export` does."""
SPLITS: tuple[Literal["test", "val"], ...] = ("test", "val")


def report(
    folder: Path, *, output: Path | None = None, with_rdm: bool = True, data_root: Path | None = None
) -> dict[str, Any]:
    """Writes the page of a finished run, whole or not at all.

    Args:
        folder: Of the run.
        output: The file; None writes ``report.html`` into the run folder.
        with_rdm: Whether to compute dissimilarity matrices, which runs the network on a few hundred images.
        data_root: Folder of the run's images, if they have moved.

    Returns:
        ``path``, ``size_bytes``, ``split`` (``val`` where there are no test images) and its number of ``samples``.

    Raises:
        RunError: If the run is not finished or has no images, or the page cannot be written.
    """
    folder, recipe = runs.open_run(folder)
    path = _target(folder, output)
    subject = collect(folder, recipe, with_rdm=with_rdm, data_root=data_root)
    runs.write_text(path, page(subject))
    if path.resolve().is_relative_to(folder.resolve()):
        name = path.resolve().relative_to(folder.resolve()).as_posix()
        runs.record(folder, name, made_from=[runs.PREDICTIONS])
    size_bytes, samples = path.stat().st_size, len(subject.shown.labels)
    return {"path": str(path), "size_bytes": size_bytes, "split": subject.split, "samples": samples}


def collect(folder: Path, recipe: Recipe, *, with_rdm: bool, data_root: Path | None = None) -> Subject:
    """The content of the page.

    Raises:
        RunError: If the run is not finished, its files are damaged, or it has neither test nor validation images.
    """
    arrays = runs.read_predictions(folder)
    split = next((name for name in SPLITS if len(arrays[f"{name}_labels"])), None)
    if split is None:
        raise RunError(
            f"{folder} has neither test nor validation images", "train with data.val_size above 0, or add test images"
        )
    shown, held_out = (Labelled(arrays[f"{name}_logits"], arrays[f"{name}_labels"]) for name in (split, "val"))
    costs = costs_of(folder, recipe)
    selection = _json_of(folder, runs.SELECTION, f"lcprune select {folder}")
    files = _exported(folder)
    images, images_absent = _images(folder, recipe, split, len(shown.labels), data_root)
    found, inside_absent = _inside(folder, with_rdm, images_absent, data_root)
    has_rows = len(held_out.labels) > 0
    return Subject(
        recipe=recipe,
        recipe_text=recipes.dump(recipe),
        environment=_json_of(folder, runs.ENVIRONMENT, f"lcprune train {folder / runs.RECIPE}"),
        curves=read_curves(folder) if (folder / runs.METRICS).exists() else None,
        seconds=metrics.seconds_trained(folder),
        exits=costs.exits,
        cost=costs.cascade,
        classes=stored.read_facts(folder).classes,
        split=split,
        shown=shown,
        held_out=held_out if has_rows else None,
        settings=_settings(held_out if has_rows else None, costs.cascade, files, selection),
        selected=selection.get("selected", {}).get("name"),
        images=images,
        images_absent=images_absent,
        inside=found,
        inside_absent=inside_absent,
        commands=_commands(folder, selection),
        exported=tuple(files),
    )


def _target(folder: Path, output: Path | None) -> Path:
    path = output or folder / runs.REPORT
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise RunError(f"{path} is no name for a page", f"name a file that ends with .html: --output {runs.REPORT}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path.parent} cannot be made: {error.strerror}", "choose another --output") from None
    return path


def _json_of(folder: Path, name: str, command: str) -> dict[str, Any]:
    """A file of the run; empty where it is not there.

    Raises:
        RunError: If it is damaged or has changed.
    """
    if not (folder / name).exists():
        return {}
    content = runs.read_json(runs.require(folder, name, command))
    if not isinstance(content, dict):
        raise RunError(f"{folder / name} is damaged", f"delete it, and run: {command}")
    return content


def _images(
    folder: Path, recipe: Recipe, split: str, n: int, data_root: Path | None
) -> tuple[np.ndarray[Any, Any] | None, str]:
    """The `n` images of a split, or why they are not there. Nothing is downloaded."""
    try:
        dataset, facts = stored.load_dataset(folder, recipe, data_root, download=False)
    except LcpruneError as error:
        problem = error.problem[:1].upper() + error.problem[1:]
        return None, f"{problem}. If they have moved: lcprune report {folder} --data-root FOLDER."
    found: Split = dataset.test if split == "test" else dataset.val
    if len(found) != n:
        return (
            None,
            f"The images in {facts.images_folder(recipe.data, data_root)} are not those that the run was trained on.",
        )
    return found.images, ""


def _inside(
    folder: Path, wanted: bool, images_absent: str, data_root: Path | None
) -> tuple[Dissimilarities | None, str]:
    """Dissimilarity matrices of the layers, or how to get them."""
    again = f"Run lcprune report {folder} without --no-rdm."
    if not wanted:
        return None, f"Dissimilarity matrices were left out. {again}"
    if images_absent:
        return None, f"Dissimilarity matrices need the images. {images_absent}"
    return rdm.dissimilarities(folder, data_root=data_root), ""


def _exported(folder: Path) -> list[tuple[Path, ModelInfo]]:
    """The recorded ONNX files of the run that can be read, newest first."""
    names = [name for name in runs.recorded_files(folder) if name.startswith("export/") and name.endswith(".onnx")]
    current = [name for name in names if (folder / name).is_file() and not runs.changed_sources(folder, name)]
    found = []
    for path in sorted((folder / name for name in current), key=lambda path: (-path.stat().st_mtime, path.name)):
        with suppress(OnnxModelError):  # a segment, or damaged: `lcprune verify` says so
            found.append((path, read_info(path)))
    return found


def _settings(
    held_out: Labelled | None,
    cost: CascadeCost,
    files: Sequence[tuple[Path, ModelInfo]],
    selection: Mapping[str, Any],
) -> tuple[Setting, ...]:
    """The thresholds of the newest export, and those that validation finds for the budget."""
    exported = next((found for path, info in files if (found := _of_export(path, info, cost)) is not None), None)
    calibrated = None
    if held_out is not None and len(cost.group_macs) > 1:
        limit = selection.get("budget", {}).get("max_drop_pct")
        calibrated = _calibrated(held_out, cost, DEFAULT_MAX_DROP_PCT if limit is None else float(limit))
    return tuple(setting for setting in (exported, calibrated) if setting is not None)


def _of_export(path: Path, info: ModelInfo, cost: CascadeCost) -> Setting | None:
    """The thresholds of a file, if it is a progressive one of this network."""
    indices = [known.exit_index for known in info.exits]
    if info.kind != "progressive" or indices != sorted(set(indices)) or indices[-1] > len(cost.critic_macs):
        return None
    ends_before_main = indices[-1] < len(cost.critic_macs)  # then all that come to its last exit leave there
    temperatures = [1.0] * len(cost.group_macs)
    for index, temperature in zip(indices, info.temperatures, strict=True):
        temperatures[index] = temperature
    return Setting(
        title=f"export {path.name}",
        source=(
            f"the exits and thresholds of the newest progressive export ({info.criterion}), on the float32 network; "
            "an export in fewer bits differs a little."
        ),
        exits=tuple(indices if ends_before_main else indices[:-1]),
        thresholds=(*info.thresholds, 0.0) if ends_before_main else info.thresholds,
        criterion=info.criterion,
        temperatures=tuple(temperatures),
    )


def _calibrated(held_out: Labelled, cost: CascadeCost, max_drop_pct: float) -> Setting | None:
    found = Family({"softmax": rows_of(held_out.logits, held_out.labels, cost)}).within_drop(max_drop_pct)
    if found is None or not found.exits:
        return None
    return Setting(
        title=f"calibrated, {max_drop_pct:g} points",
        source=(
            f"the cheapest thresholds that are expected to lose at most {max_drop_pct:g} points against float32's main "
            f"on new images (softmax, no temperature). Cross-validated: {found.expected_drop_pct:.2f} points, give or "
            f"take {found.expected_drop_se_pct:.2f}; the validation images lose {found.drop_pct:.2f}."
        ),
        exits=found.exits,
        thresholds=found.thresholds,
    )


def _commands(folder: Path, selection: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The commands of the run: the training as it was typed, the others from what they recorded."""
    environment = _json_of(folder, runs.ENVIRONMENT, f"lcprune train {folder / runs.RECIPE}")
    thresholds = _json_of(folder, runs.THRESHOLDS, f"lcprune export {folder} --format onnx --progressive")
    found = []
    if typed := environment.get("command"):
        found.append(("Trained with", list(map(str, typed))))
    if selection:
        keys = ("max_drop_pct", "minimize", "max_macs", "max_params", "max_latency_ms", "confidence", "exits")
        words = ["lcprune", "select", str(folder), *_options(selection.get("budget", {}), keys)]
        found.append(("Selected with (as selection.json says)", words + _test_split(selection)))
    if thresholds:
        keys = ("max_drop_pct", "max_macs", "max_latency_ms", "confidence", "minimize", "criterion", "precision")
        words = ["lcprune", "export", str(folder), "--format", "onnx", "--progressive", *_options(thresholds, keys)]
        words += ["--no-temperature"] if set(thresholds.get("temperatures", ())) == {1.0} else []
        words += ["--exit", last] if (last := exit_label(thresholds.get("last", MAIN))) != MAIN else []
        found.append(("Thresholds calibrated with (as thresholds.json says)", words + _test_split(thresholds)))
    found.append(("This page", ["lcprune", "report", str(folder)]))
    return tuple((title, shlex.join(words)) for title, words in found)


def _options(content: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """``--max-drop 0.5`` of ``max_drop_pct: 0.5``; what is not given is left out."""
    words = []
    for key in keys:
        if (value := content.get(key)) not in (None, []):
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += [f"--{key.removesuffix('_pct').replace('_', '-')}", text]
    return words


def _test_split(content: Mapping[str, Any]) -> list[str]:
    return ["--use-test-split"] if content.get("decided_on") == "test" else []
