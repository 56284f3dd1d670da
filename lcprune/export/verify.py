"""Whether an exported file says what torch says, and the file that appears only if it does. Needs no torch."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcprune.errors import ExportError, OnnxModelError
from lcprune.export.session import Floats, Ints, OnnxClassifier, softmax_confidence

MAX_RELATIVE_DIFF = 1e-4  # of the largest logit
TIE = 1e-5  # a confidence this near to a threshold may fall on either side
SINGLES = 8  # rows that are also run one by one


@dataclass(frozen=True)
class Parity:
    """How near a file is to torch."""

    max_abs_diff: float
    """Largest difference of a logit, over all exits that could be reached."""
    exits_agree: bool
    samples: int
    """Images compared."""
    near_threshold: int
    """Rows that left elsewhere than torch says because a confidence lies on its threshold; they are excused."""


def check_parity(
    path: Path, images: NDArray[np.generic], expected_logits: Floats, thresholds: Sequence[float]
) -> Parity:
    """Holds a file against torch: all images at once, some one by one, and every exit by itself.

    Every exit by itself needs thresholds that can be given at run time.

    Args:
        path: What was exported.
        images: ``(N, C, H, W)``, uint8 or finite float in 0..1.
        expected_logits: From torch, for the exits of the file, ``(exits, N, classes)``.
        thresholds: The defaults of the file.

    Raises:
        ExportError: If a logit differs by more than 1e-4 of the largest one, or a row leaves at the wrong exit.
        ValueError: If there are no images.
    """
    if len(images) == 0:
        raise ValueError("parity needs images")
    if not np.isfinite(expected_logits).all():
        raise ExportError("the network's logits are not finite in torch itself", "export a run that trained to the end")
    pixels = as_float(images)
    name = path.name.removesuffix(".part")
    try:
        classifier = OnnxClassifier(path)
    except OnnxModelError as error:
        raise ExportError(f"the export does not load: {error.problem}", "report this, with the recipe") from error
    confidences = softmax_confidence(expected_logits[:-1])
    limits = np.asarray(thresholds, np.float32)

    whole = classifier.run(pixels)
    diff, excused = _compare(name, whole.logits, whole.exit_indices, expected_logits, confidences, limits)
    for row in np.unique(np.linspace(0, len(pixels) - 1, SINGLES).astype(int)):
        one = slice(row, row + 1)
        single = classifier.run(pixels[one])
        single_diff, _ = _compare(
            name, single.logits, single.exit_indices, expected_logits[:, one], confidences[:, one], limits
        )
        diff = max(diff, single_diff)
    if classifier.takes_thresholds:
        for got, expected in zip(classifier.exit_logits(pixels), expected_logits, strict=True):
            diff = max(diff, _logit_diff(name, got, expected))
    return Parity(diff, exits_agree=True, samples=len(pixels), near_threshold=excused)


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
        path.parent.mkdir(parents=True, exist_ok=True)
        for content in versions:
            part.write_bytes(content)
            parity = check(part)
        part.replace(path)
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written: {error.strerror}", "name a writable place with --output"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return parity


def as_float(images: NDArray[np.generic]) -> Floats:
    """Images as the input of a model: float32 in 0..1, uint8 divided by 255."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32)


def _compare(
    name: str, logits: Floats, exit_indices: Ints, expected_logits: Floats, confidences: Floats, limits: Floats
) -> tuple[float, int]:
    """Largest difference of the logits where each row left, and the rows excused for leaving elsewhere than torch.

    Args:
        name: Of the file.
        logits: From the file, ``(N, classes)``.
        exit_indices: From the file, ``(N,)``.
        expected_logits: ``(exits, N, classes)``.
        confidences: Of the early exits, ``(exits - 1, N)``.
        limits: Their thresholds, ``(exits - 1,)``.
    """
    exits = np.arange(len(limits))[:, None]  # (exits - 1, 1)
    leaves = confidences >= limits[:, None]  # (exits - 1, N)
    torch_exits = np.where(leaves.any(axis=0), leaves.argmax(axis=0), len(limits)) if len(limits) else 0 * exit_indices
    must = confidences >= limits[:, None] + TIE
    may = confidences >= limits[:, None] - TIE
    wrong = ((exits < exit_indices) & must).any(axis=0) | ((exits == exit_indices) & ~may).any(axis=0)
    if wrong.any():
        raise ExportError(
            f"{name}: {int(wrong.sum())} of {len(wrong)} images leave at another exit than in torch",
            "report this, with the recipe",
        )
    diff = _logit_diff(name, logits, expected_logits[exit_indices, np.arange(len(logits))])
    return diff, int((exit_indices != torch_exits).sum())


def _logit_diff(name: str, logits: Floats, expected: Floats) -> float:
    limit = MAX_RELATIVE_DIFF * float(np.abs(expected).max())
    diff = float(np.abs(logits - expected).max())
    if not diff <= limit:  # also where it is NaN
        raise ExportError(
            f"{name} differs from torch by {diff:.1e} in a logit (limit {limit:.1e})", "report this, with the recipe"
        )
    return diff
