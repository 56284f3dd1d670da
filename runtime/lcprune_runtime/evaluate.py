"""Accuracy of an exported model on images with labels."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcprune_runtime.criterion import predicted_classes
from lcprune_runtime.images import read_folder
from lcprune_runtime.segment_session import SegmentedSession, open_model
from lcprune_runtime.session import ProgressiveSession

Session = ProgressiveSession | SegmentedSession


def evaluate(model: Path, folder: Path) -> dict[str, Any]:
    """Accuracy of every exit of a file, and of the file with its own thresholds, on the images that can be read.

    Args:
        model: A file that `lcprune export` wrote.
        folder: With one subfolder of images for each class.

    Raises:
        OnnxModelError: If the file is no model of ours.
        DataError: If the images do not fit it.
    """
    session = open_model(model)
    info = session.info
    found = read_folder(folder, info.input.preparation, info.classes)
    images, labels = found.images, found.labels
    result: dict[str, Any] = {"split": str(folder), "samples": len(labels), "exits": [], "progressive": []}
    result["bad_images"] = found.bad
    if gives_exits(session):
        correct = predicted_classes(session.exit_logits(images)) == labels  # (exits, N)
        result["exits"] = [
            {"name": known.name, "exit_index": known.exit_index, "accuracy_pct": 100 * float(of_exit.mean())}
            for known, of_exit in zip(info.exits, correct, strict=True)
        ]
    if info.kind == "progressive":
        result["progressive"].append(at_own_thresholds(session, images, labels))
    return result


def gives_exits(session: Session) -> bool:
    """Whether the logits of every exit can be had: not where thresholds are fixed in the file."""
    return session.info.kind == "submodel" or session.takes_thresholds


def at_own_thresholds(session: Session, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> dict[str, Any]:
    """What a progressive model does with the thresholds that are in it."""
    info = session.info
    prediction = session(images)
    counts = np.bincount(prediction.exit_indices, minlength=len(info.exits))
    mean_macs = float(counts @ np.asarray(info.exit_macs, np.float64)) / len(labels)
    return {
        "threshold": list(info.thresholds),
        "accuracy_pct": 100 * float((prediction.labels == labels).mean()),
        "mean_macs": mean_macs,
        "macs_ratio": mean_macs / info.main_macs,
        "exit_fractions": (counts / len(labels)).tolist(),
    }
