"""Losses of single training images during training, for Figure 6 of the paper."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lcprune import runs
from lcprune.analysis.representation import label_ordered
from lcprune.data.sources import Split
from lcprune.errors import RunError
from lcprune.training.methods.base import sample_losses

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class LossRecord:
    """The file ``sample_losses.npz`` of a run: ``steps`` (S,), ``losses`` (S, K, N) and ``labels`` (N,)."""

    path: Path
    images: Split
    """Whose losses are recorded: the same ones every time, as they are."""
    steps: frozenset[int]
    """After which they are recorded; 0 is before the first."""

    def forget_after(self, step: int) -> None:
        """Drops what was recorded after `step`: a resumed run records it again.

        Raises:
            RunError: If the file is damaged.
        """
        if self.path.exists():
            self._write(_up_to(read(self.path), step))

    def add(self, step: int, logits: Tensor) -> None:
        """Records the losses that logits ``(K, N, C)`` of the images mean. Nothing else of a run is changed.

        Raises:
            RunError: If the file is damaged, or cannot be written.
        """
        labels = torch.from_numpy(self.images.labels)
        losses = np.stack([sample_losses(of_exit, labels, label_smoothing=0).numpy() for of_exit in logits])
        arrays = {"steps": np.array([step]), "losses": losses[None], "labels": self.images.labels}
        if self.path.exists():
            before = _up_to(read(self.path), step - 1)
            arrays |= {key: np.concatenate([before[key], arrays[key]]) for key in ("steps", "losses")}
        self._write(arrays)

    def _write(self, arrays: Arrays) -> None:
        with runs.atomic_write(self.path) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        runs.record(self.path.parent, self.path.name)


def loss_record(path: Path, images: Split, count: int, iterations: int) -> LossRecord:
    """A record of the first images of each class, `count` in all, over a run of so many steps."""
    return LossRecord(path, images.subset(label_ordered(images.labels, count)), frozenset(recording_steps(iterations)))


def recording_steps(iterations: int, about: int = 20) -> tuple[int, ...]:
    """Step 0, and at most `about` steps from 1 to `iterations` that grow by the same factor, rounded."""
    grown = np.rint(np.geomspace(1, iterations, about)).astype(int)
    return (0, *(int(step) for step in np.unique(grown)))


def read(path: Path) -> Arrays:
    """``steps``, ``losses`` and ``labels`` of a file.

    Raises:
        RunError: If it is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("steps", "losses", "labels")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"{path} is damaged ({error})", "delete it, and train again where you need it") from None


def _up_to(arrays: Arrays, step: int) -> Arrays:
    kept = arrays["steps"] <= step
    return arrays | {key: arrays[key][kept] for key in ("steps", "losses")}
