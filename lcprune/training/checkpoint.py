"""Checkpoints: with one, a resumed run is bit-identical to an uninterrupted one.

The order of the images, their augmentation and the learning rate are functions of the step. So a checkpoint has the
weights, the states of the optimizers, the step and torch's random state (for layers such as dropout).

A checkpoint is a file of `torch.save` with its SHA-256 inside (`lcprune.training.checksum`).
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lcprune.errors import RunError
from lcprune.models import Network
from lcprune.runs import atomic_write
from lcprune.training.checksum import is_intact, with_checksum

FORMAT = 1
LAST, LAST_GOOD, BEST = "last.pt", "last_good.pt", "best.pt"
_PROGRESS = ("step", "seconds", "best_accuracy_pct", "best_step", "evaluations_since_best", "retries")
"""Fields of a state that are numbers."""


@dataclass
class TrainingState:
    """Everything that training changes, in place."""

    network: Network
    optimizers: tuple[Optimizer, ...]
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Time spent in training so far, over all sessions."""
    best_accuracy_pct: float = -1.0
    """Best accuracy of main on the validation split so far; -1 before the first evaluation."""
    best_step: int = 0
    """Steps that were done when it had that accuracy."""
    evaluations_since_best: int = 0
    """Evaluations on the validation split since then."""
    average: AveragedModel | None = None
    """Mean or moving average of the weights, where the recipe asks for it."""
    retries: int = 0
    """How many times the run went back to a checkpoint because of a number that was not finite."""


def save(state: TrainingState, path: Path, reproducibility: dict[str, str | int]) -> None:
    """Writes a checkpoint, whole or not at all. `reproducibility` has what bit-identity depends on.

    Raises:
        RunError: If it cannot be written; a file at `path` is kept.
    """
    content = _packed(state, reproducibility)
    with atomic_write(path) as part:
        part.write_bytes(content)


def _packed(state: TrainingState, reproducibility: dict[str, str | int]) -> bytes:
    """The bytes of a checkpoint, in memory: a full disk is an OSError only if Python writes the file."""
    content = {
        "format": FORMAT,
        **{name: getattr(state, name) for name in _PROGRESS},
        "network": state.network.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
        "average": None if state.average is None or not state.average.n_averaged else state.average.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "surroundings": reproducibility,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return with_checksum(buffer)


def rotate(folder: Path, state: TrainingState, reproducibility: dict[str, str | int]) -> None:
    """Writes ``last.pt``; the previous one becomes ``last_good.pt``, so that there is always a good file.

    Raises:
        RunError: If it cannot be written; the older ones are kept.
    """
    last = folder / LAST
    content = _packed(state, reproducibility)
    with atomic_write(last) as part:
        part.write_bytes(content)
        with part.open("rb") as written:
            os.fsync(written.fileno())  # before the previous one is renamed
        if last.exists() and is_intact(last):  # a damaged one must not replace the good one
            last.replace(folder / LAST_GOOD)


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint to resume from, good or damaged."""
    return any((folder / name).exists() for name in (LAST, LAST_GOOD))


def load_newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest readable checkpoint, None if there is none, and a line for each damaged one.

    Raises:
        RunError: If there are checkpoints but none can be read.
    """
    complaints: list[str] = []
    for name in (LAST, LAST_GOOD):
        path = folder / name
        if not path.exists():
            continue
        try:
            return load(path), complaints
        except RunError as error:
            complaints.append(error.problem)
    if complaints:
        raise RunError("; ".join(complaints), "train again: no checkpoint of this run can be read")
    return None, []


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's content; no code in it is executed.

    Raises:
        RunError: If the file is damaged, truncated or of another format.
    """
    try:
        if not is_intact(path):
            raise ValueError("its SHA-256 is not what was written")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(
            f"{path} is damaged ({reason[:120]})", "resume from another checkpoint, or train again"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunError(f"{path} is no checkpoint of this version", "use the version of lcprune that wrote it")
    return content


def restore(state: TrainingState, content: dict[str, Any]) -> None:
    """Puts a checkpoint's content into `state` and into torch's random generators.

    Raises:
        RunError: If it belongs to another network.
    """
    try:
        state.network.load_state_dict(content["network"])
        for optimizer, saved in zip(state.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if state.average is not None and content.get("average") is not None:
            state.average.load_state_dict(content["average"])
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"the checkpoint belongs to another network ({reason})", "resume with its own recipe") from None
    restore_progress(state, content)
    torch.set_rng_state(content["rng"])
    if content["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["cuda_rng"])


def restore_progress(state: TrainingState, content: dict[str, Any]) -> None:
    """Puts a checkpoint's numbers, such as the step, into `state`."""
    for name in _PROGRESS:
        setattr(state, name, content.get(name, 0))  # older versions have fewer
