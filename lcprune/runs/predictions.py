"""``predictions.npz``: the logits of every exit on the validation and the test images."""

import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from lcprune.errors import RunError
from lcprune.runs.checksums import record, require
from lcprune.runs.files import atomic_write
from lcprune.runs.layout import PREDICTIONS, WEIGHTS


def write_predictions(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes ``predictions.npz`` and records it.

    Not compressed: that would save 7 % of the bytes at 40 times the time.
    """
    with atomic_write(folder / PREDICTIONS) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    record(folder, PREDICTIONS, made_from=[WEIGHTS])


def read_predictions(folder: Path, splits: Collection[str] = ("val", "test")) -> dict[str, np.ndarray]:
    """``val_logits``, ``val_labels``, ``test_logits``, ``test_labels``; logits are ``(K, N, C)``.

    Args:
        folder: Of the run.
        splits: Whose logits to read; those of others would take time and memory. Labels are always read.

    Raises:
        RunError: If the run has no predictions yet, or they are damaged.
    """
    command = f"lcprune resume {folder}"
    path = require(folder, PREDICTIONS, command)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            wanted = {f"{split}_logits" for split in splits}
            return {name: arrays[name] for name in arrays if name in wanted or not name.endswith("_logits")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"{path} is damaged ({error})", f"run this, which writes it again: {command}") from None
