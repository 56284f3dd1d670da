"""Classifying image files with an exported model; no torch."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lcprune_runtime import contact_sheet
from lcprune_runtime.errors import DataError
from lcprune_runtime.images import BadImages, list_images, read_image, readable
from lcprune_runtime.segment_session import open_model

T = TypeVar("T")

BATCH = 64
MOST_CELLS = 400  # of a contact sheet; more would make a picture that few programs open


def predict(model: Path, images: Sequence[Path], grid: Path | None = None, columns: int = 6) -> dict[str, Any]:
    """Class, confidence and exit of every image that can be read; ``bad_images`` of the result names the others.

    Args:
        model: A file that `export` wrote.
        images: Image files, or folders whose images are taken.
        grid: Where to write a contact sheet of the first `MOST_CELLS` images; None for none.
        columns: Images in a row of it.

    Raises:
        OnnxModelError: If the file is no model of ours.
        DataError: If there is not one image that can be read.
        LcpruneError: If the sheet cannot be written.
    """
    if grid is not None:
        contact_sheet.check_name(grid)
    session = open_model(model)
    paths = _image_files(images)
    info = session.info
    bad: BadImages = []
    rows: list[dict[str, Any]] = []
    for batch in _batches(readable(paths, info.input.preparation, bad)):
        result = session(np.stack([pixels for _, pixels in batch]))
        rows += [
            {
                "image": str(paths[number]),
                "class": info.classes[int(label)],
                "confidence": float(confidence),
                "exit": info.exits[int(index)].name,
                "exit_index": int(index),
                "macs_ratio": info.exit_macs[int(index)] / info.main_macs,
            }
            for (number, _), label, confidence, index in zip(
                batch, result.labels, result.confidences, result.exit_indices, strict=True
            )
        ]
    content = {"model": str(model), "kind": info.kind, "images": rows, "bad_images": bad}
    if grid is None:
        return content
    _save_grid(rows, grid, columns, len(info.exits))
    return {**content, "grid": str(grid)}


def _batches(images: Iterator[T]) -> Iterator[list[T]]:
    """Lists of up to `BATCH`."""
    while batch := [*itertools.islice(images, BATCH)]:
        yield batch


def _save_grid(rows: Sequence[Mapping[str, Any]], path: Path, columns: int, exits: int) -> None:
    """Draws what `predict` found; the images are read once more, whole, because `rows` have none."""
    cells = [
        contact_sheet.Cell(
            picture=contact_sheet.fitted(read_image(Path(row["image"]), None, 3)),
            name=Path(row["image"]).name,
            label=row["class"],
            confidence=row["confidence"],
            exit_name=row["exit"] if exits > 1 else None,
            depth=row["exit_index"] / max(1, exits - 1),
        )
        for row in rows[:MOST_CELLS]
    ]
    remark = f"the first {MOST_CELLS} of {len(rows)} images" if len(rows) > MOST_CELLS else ""
    contact_sheet.save(contact_sheet.draw(cells, columns, remark), path)


def _image_files(images: Sequence[Path]) -> list[Path]:
    """Every file that is named, and those of folders."""
    paths: list[Path] = []
    for path in images:
        inside = list_images(path) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path} holds no images", "name image files, or a folder that holds some")
        paths += inside
    return paths
