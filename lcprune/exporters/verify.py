"""Compares an exported file with its reference, and gives it its name only if it passes. Needs no torch."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from lcprune.errors import ExportError, OnnxModelError, ParityError, fix_of
from lcprune.specs import PRECISIONS, Criterion, Precision
from lcprune_runtime.criterion import exit_scores
from lcprune_runtime.metadata import ModelInfo
from lcprune_runtime.progress import tracked
from lcprune_runtime.segment_session import open_model
from lcprune_runtime.session import CHUNK, Floats, Ints, open_session, to_float

TORCH = "torch"
MAX_RELATIVE_DIFF = PRECISIONS["fp32"].max_relative_diff  # of the largest logit
TIE = 1e-5  # a confidence this near to a threshold may fall on either side
SINGLES = 8  # rows that are also run one by one


@dataclass(frozen=True)
class Reference:
    """What an exported file is compared with."""

    images: NDArray[np.generic]
    """``(N, C, H, W)``, uint8 or finite float in 0..1."""
    logits: Floats
    """What every exit of the file should give for them, ``(exits, N, classes)``."""
    source: str = TORCH
    """Where the logits come from."""
    max_relative_diff: float = MAX_RELATIVE_DIFF
    """Of a logit, as a part of the largest one."""

    def rows(self, count: int) -> "Reference":
        """The first `count` images."""
        return replace(self, images=self.images[:count], logits=self.logits[:, :count])

    @classmethod
    def of_stages(cls, stages: Sequence[ModelProto], images: NDArray[np.generic], precision: Precision) -> "Reference":
        """The stages themselves, which a file of reduced precision is compared with."""
        return cls(images, stage_logits(stages, images), "its own stages", PRECISIONS[precision].max_relative_diff)


@dataclass(frozen=True)
class Parity:
    """How near a file is to torch."""

    max_abs_diff: float
    """Largest difference of a logit, over all exits that could be reached."""
    exits_agree: bool
    samples: int
    """Images compared."""
    near_threshold: int
    """Rows that left elsewhere than they should because a confidence lies on its threshold; they are excused."""
    against: str = TORCH
    """What the file was compared with."""


def check_parity(path: Path, reference: Reference, thresholds: Sequence[float]) -> Parity:
    """Compares a file with its reference: all images at once, some one by one, and every exit by itself.

    Every exit by itself needs thresholds that can be given at run time.

    Args:
        path: What was exported: a file, or a folder of segments.
        reference: For the exits of the file.
        thresholds: The defaults of the file.

    Raises:
        ParityError: If a logit differs too much, or an image leaves at the wrong exit.
        ExportError: If the file does not load, or the network's logits are not finite.
        ValueError: If there are no images.
    """
    if len(reference.images) == 0:
        raise ValueError("parity needs images")
    if not np.isfinite(reference.logits).all():
        raise ExportError(
            f"the network's logits are not finite in {reference.source}", "export a run that trained to the end"
        )
    pixels, name = to_float(reference.images), path.name.removesuffix(".part")
    try:
        session = open_model(path)
    except OnnxModelError as error:
        raise ExportError(f"the export does not load: {error.problem}", "report this, with the recipe") from error
    expected = _Expected.of(reference.logits, thresholds, session.info.criterion, session.info.temperatures)

    whole = session(pixels)
    diff, excused = _compare(name, reference, whole.exits, whole.logits, expected)
    for row in np.unique(np.linspace(0, len(pixels) - 1, SINGLES).astype(int)):
        one = slice(row, row + 1)
        single = session(pixels[one])
        diff = max(diff, _compare(name, reference, single.exits, single.logits, expected.rows(one))[0])
    if session.takes_thresholds:
        for got, of_exit in zip(session.exit_logits(pixels), reference.logits, strict=True):
            diff = max(diff, _logit_diff(name, reference, got, of_exit))
    return Parity(diff, exits_agree=True, samples=len(pixels), near_threshold=excused, against=reference.source)


def check_logits(name: str, reference: Reference, logits: Floats, info: ModelInfo) -> Parity:
    """Compares the logits of all exits, ``(exits, N, classes)``, and the exits that a host chooses by them.

    Raises:
        ParityError: If a logit differs too much, or an image takes the wrong exit.
    """
    diff = max(_logit_diff(name, reference, *pair) for pair in zip(logits, reference.logits, strict=True))
    got, expected = (
        _Expected.of(each, info.thresholds, info.criterion, info.temperatures) for each in (logits, reference.logits)
    )
    taken = logits[got.exits, np.arange(len(got.exits))]  # (N, classes)
    _, excused = _compare(name, reference, got.exits, taken, expected)
    return Parity(diff, exits_agree=True, samples=len(got.exits), near_threshold=excused, against=reference.source)


def stage_logits(stages: Sequence[ModelProto], images: NDArray[np.generic]) -> Floats:
    """Logits of every exit, ``(exits, N, classes)``, from stages that are run one after the other on all images.

    Args:
        stages: As they are before they are stitched, main last.
        images: ``(N, C, H, W)``, uint8 or float in 0..1.

    Raises:
        OnnxModelError: If onnxruntime cannot load a stage.
    """
    sessions = [open_session(stage.SerializeToString(), f"stage {k}") for k, stage in enumerate(stages)]
    starts = tracked(range(0, max(len(images), 1), CHUNK), "running the exported stages")
    chunks = [_chunk_logits(sessions, images[start : start + CHUNK]) for start in starts]
    return np.concatenate(chunks, axis=1)


def _chunk_logits(sessions: Sequence[Any], images: NDArray[np.generic]) -> Floats:
    pixels = to_float(images)
    hidden: NDArray[Any] = pixels
    of_exits = []
    for session in sessions:
        *handed, logits = session.run(None, {"image": hidden})
        of_exits.append(logits)
        hidden = handed[0] if handed else pixels  # what hands nothing over is followed by a stage that reads the image
    return np.stack(of_exits)


def check_stages(stages: Sequence[ModelProto], reference: Reference) -> None:
    """Compares stages with their reference before anything is made of them.

    Raises:
        ParityError: If a logit differs too much.
    """
    for got, expected in zip(stage_logits(stages, reference.images), reference.logits, strict=True):
        _logit_diff("the network in ONNX", reference, got, expected)


def write_checked(versions: Sequence[bytes], path: Path, check: Callable[[Path], Parity]) -> Parity:
    """Writes a file under another name, checks it, and only then gives it its name.

    Args:
        versions: Each is checked; the last one stays.
        path: An older file there is replaced only by one that has passed.
        check: Raises what is wrong.

    Raises:
        ExportError: If the file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for content in versions:
                part.write_bytes(content)
                parity = check(part)
            part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return parity


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """Says that `path` cannot be written, where the system refuses something inside.

    Raises:
        ExportError: It does.
    """
    try:
        yield
    except OSError as error:
        refused = error.filename or path
        raise ExportError(f"{refused} cannot be written: {error.strerror or error}", fix_of(error, refused)) from None


@dataclass(frozen=True)
class _Expected:
    """What the file should do with some rows."""

    logits: Floats
    """``(exits, N, classes)``."""
    exits: Ints
    """Where each row leaves, ``(N,)``."""
    must: NDArray[np.bool_]
    """Whether a row that gets to an early exit has to leave there, ``(exits - 1, N)``."""
    may: NDArray[np.bool_]
    """Whether it can leave there: what is neither lies on a threshold, or between two classes."""

    @classmethod
    def of(
        cls, logits: Floats, thresholds: Sequence[float], criterion: Criterion, temperatures: Sequence[float]
    ) -> "_Expected":
        limits = np.asarray(thresholds, np.float32)[:, None]  # (exits - 1, 1)
        scores = exit_scores(logits[:-1], criterion, temperatures[:-1])[0]  # (exits - 1, N)
        leaves = np.concatenate([scores >= limits, np.ones((1, logits.shape[1]), bool)])
        must, may = scores >= limits + TIE, scores >= limits - TIE
        if criterion == "agreement":
            alone = exit_scores(logits[:-1], "softmax", temperatures[:-1])[0]
            unsure = _between_classes(logits[:-1])
            unsure[1:] |= unsure[:-1]
            unsure[:1] = False
            must, may = must & ~unsure, may | (unsure & (alone >= limits - TIE))
        return cls(logits, leaves.argmax(axis=0), must, may)

    def rows(self, some: slice) -> "_Expected":
        return _Expected(self.logits[:, some], self.exits[some], self.must[:, some], self.may[:, some])


def _between_classes(logits: Floats) -> NDArray[np.bool_]:
    """Where the two largest logits are so near that either may be the class, ``(exits, N)``."""
    second, first = np.moveaxis(np.partition(logits, -2, axis=-1)[..., -2:], -1, 0)
    nearly: NDArray[np.bool_] = first - second <= MAX_RELATIVE_DIFF * np.abs(logits).max()
    return nearly


def _compare(
    name: str, reference: Reference, exit_indices: Ints, logits: Floats, expected: _Expected
) -> tuple[float, int]:
    """Largest difference of the logits where each image left, and the images excused for leaving elsewhere."""
    exits = np.arange(len(expected.must))[:, None]  # (exits - 1, 1)
    too_far = (exits < exit_indices) & expected.must
    wrong = (too_far | ((exits == exit_indices) & ~expected.may)).any(axis=0)
    if wrong.any():
        raise ParityError(
            f"{name}: {int(wrong.sum())} of {len(wrong)} images leave at another exit than in {reference.source}",
            "report this, with the recipe",
        )
    diff = _logit_diff(name, reference, logits, expected.logits[exit_indices, np.arange(len(exit_indices))])
    return diff, int((exit_indices != expected.exits).sum())


def _logit_diff(name: str, reference: Reference, logits: Floats, expected: Floats) -> float:
    limit = reference.max_relative_diff * float(np.abs(expected).max())
    diff = float(np.abs(logits - expected).max())
    if not diff <= limit:  # also where it is NaN
        raise ParityError(
            f"{name} differs from {reference.source} by {diff:.1e} in a logit (limit {limit:.1e})",
            "report this, with the recipe",
        )
    return diff
