"""Classifying image files with an exported model; no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcprune.data.images import list_images, read_image
from lcprune.errors import DataError
from lcprune.export.segmented import open_model

BATCH = 64


def predict(model: Path, images: Sequence[Path]) -> dict[str, Any]:
    """Class, confidence and exit of every image.

    Args:
        model: A file that `export` wrote.
        images: Image files, or folders whose images are taken.

    Raises:
        OnnxModelError: If the file is no model of ours.
        DataError: If an image is missing or damaged.
    """
    session = open_model(model)
    paths = _image_files(images)
    info = session.info
    rows = []
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        pixels = np.stack([read_image(path, info.input.size, info.input.channels) for path in batch])
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
    return {"model": str(model), "kind": info.kind, "images": rows}


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
