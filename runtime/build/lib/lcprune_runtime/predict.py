"""Classifying image files with an exported model; no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcprune_runtime import contact_sheet
from lcprune_runtime.errors import DataError
from lcprune_runtime.images import list_images, read_image, read_prepared
from lcprune_runtime.segment_session import open_model

BATCH = 64
MOST_CELLS = 400  # of a contact sheet; more would make a picture that few programs open


def predict(model: Path, images: Sequence[Path], grid: Path | None = None, columns: int = 6) -> dict[str, Any]:
    """Class, confidence and exit of every image.

    Args:
        model: A file that `export` wrote.
        images: Image files, or folders whose images are taken.
        grid: Where to write a contact sheet of the first `MOST_CELLS` images; None for none.
        columns: Images in a row of it.

    Raises:
        OnnxModelError: If the file is no model of ours.
        DataError: If an image is missing or damaged.
        LcpruneError: If the sheet cannot be written.
    """
    if grid is not None:
        contact_sheet.check_name(grid)
    session = open_model(model)
    paths = _image_files(images)
    info = session.info
    rows = []
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        pixels = np.stack([read_prepared(path, info.input.preparation) for path in batch])
        result = session(pixels)
        rows += [
            {
                "image": str(path),
                "class": info.classes[int(label)],
                "confidence": float(confidence),
                "exit": info.exits[int(index)].name,
                "exit_index": int(index),
                "macs_ratio": info.exit_macs[int(index)] / info.main_macs,
            }
            for path, label, confidence, index in zip(
                batch, result.labels, result.confidences, result.exit_indices, strict=True
            )
        ]
    if grid is None:
        return {"model": str(model), "kind": info.kind, "images": rows}
    _save_grid(rows, grid, columns, len(info.exits))
    return {"model": str(model), "kind": info.kind, "images": rows, "grid": str(grid)}


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
    paths: list[Path] = []
    for path in images:
        if path.is_dir():
            inside = list_images(path)
            if not inside:
                raise DataError(f"{path} holds no images", "name image files, or a folder that holds some")
            paths += inside
        elif path.is_file():
            paths.append(path)
        else:
            raise DataError(f"there is no image {path}", "name image files, or folders of them")
    return paths
