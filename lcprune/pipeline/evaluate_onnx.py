"""Accuracy of an exported model on a folder of images, without torch, or on a recipe's test split."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.analysis.ensembles import ensembles
from lcprune.analysis.evaluate import exit_rows, sweep
from lcprune.data import sources
from lcprune.errors import DataError
from lcprune_runtime.evaluate import Session, at_own_thresholds, gives_exits
from lcprune_runtime.images import BadImages, read_folder, readable, refuse_too_many
from lcprune_runtime.segment_session import open_model

Images = np.ndarray[Any, np.dtype[np.uint8]]
Labels = np.ndarray[Any, np.dtype[np.int64]]


def evaluate(model: Path, data: str, data_root: Path | None) -> dict[str, Any]:
    """Accuracy of every exit of a file, of ensembles, and of progressive inference at its own and other thresholds.

    Args:
        model: A file that `export` wrote.
        data: A folder with one subfolder of images for each class, or a recipe whose test split is taken.
        data_root: Where a recipe's images are; None: as it says.

    Raises:
        OnnxModelError: If the file is no model of ours.
        DataError: If the images do not fit it.
    """
    runs.check_exported(model)
    session = open_model(model)
    images, labels, split, bad = _images(session, data, data_root)
    info = session.info
    result: dict[str, Any] = {"split": split, "samples": len(labels), "exits": [], "ensembles": {}, "progressive": []}
    result["bad_images"] = bad
    if gives_exits(session):
        logits = session.exit_logits(images)  # (exits, N, classes)
        exits = [(known.name, known.exit_index) for known in info.exits]
        result["exits"] = exit_rows(exits, logits, labels)
        result["ensembles"] = ensembles(logits, labels, [known.name for known in info.exits])
        if info.kind == "progressive":
            result["progressive"] = [row.as_json() for row in sweep(logits, labels, info.exit_macs, info.main_macs)]
    if info.kind == "progressive":
        result["progressive"].insert(0, at_own_thresholds(session, images, labels))
    return result


def _images(session: Session, data: str, data_root: Path | None) -> tuple[Images, Labels, str, BadImages]:
    info = session.info
    if Path(data).is_dir():
        found = read_folder(Path(data), info.input.preparation, info.classes)
        return found.images, found.labels, data, found.bad
    recipe = recipes.load(data)
    if recipe.data.has_files:
        recipe = recipes.load(data, ["data.on_bad_image=skip"])
    dataset = sources.load(recipe.data, data_root, recipe.train.seed)
    shape = (info.input.channels, info.input.size, info.input.size)
    if dataset.classes != info.classes or dataset.image_shape != shape:
        raise DataError(
            f"the images of {data} ({len(dataset.classes)} classes, {dataset.image_shape}) are not those that "
            f"{session.name} was trained for ({len(info.classes)} classes, {shape})",
            "name the recipe that it was trained with, or a folder of its classes",
        )
    if not len(dataset.test):
        raise DataError(f"{data} has no test images", "name a folder of images, one subfolder for each class")
    refuse_too_many(len(dataset.test), info.input.size, info.input.channels)
    bad: BadImages = []
    with suppress(DataError):  # none can be read: what each one's problem is was not kept
        for _ in readable(dataset.skipped, info.input.preparation, bad):
            pass
    return dataset.test.images[:], dataset.test.labels, f"test split of {recipe.name}", bad
