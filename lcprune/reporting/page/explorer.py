"""The data of the slider: codes instead of confidences, with which the page decides exactly as Python does.

A code is the number of thresholds on a grid that a confidence reaches, compared in float32 as everywhere else. An
image leaves at the threshold with index i exactly where its code is above i; with the index of the grid's end it never
leaves. The grid holds all places of the slider, and the thresholds of the setting besides, so that both are exact.
"""

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from lcprune.analysis.evaluate import ProgressiveResult
from lcprune.analysis.thresholds import simulate
from lcprune.reporting.page.measured import Decided, Measured
from lcprune.reporting.page.subject import Subject

STEPS = 1000
"""The slider goes from 0 to 1 in so many steps."""
MOST_SAMPLES = 20_000


def sampled(n: int) -> npt.NDArray[np.int64]:
    """Which of ``n`` rows are embedded: all, or `MOST_SAMPLES` of them, evenly."""
    return np.linspace(0, n - 1, min(n, MOST_SAMPLES)).astype(np.int64)


def embedded_result(decided: Decided) -> ProgressiveResult:
    """What the setting does to the embedded rows."""
    rows = decided.rows.take(sampled(decided.rows.n))
    return simulate(rows, decided.setting.exits, decided.setting.thresholds)


def packed(subject: Subject, measured: Measured) -> dict[str, Any]:
    """What the page's script reads.

    Raises:
        ValueError: If there is no early exit.
    """
    if measured.common is None:
        raise ValueError("a network without early exits has no thresholds")
    kept_rows = sampled(measured.rows.n)
    return {
        "samples": len(kept_rows),
        "names": [cost.name for cost in subject.exits],
        "mainMacs": subject.cost.main_macs,
        "correct": _text(np.packbits(measured.rows.correct[:, kept_rows], axis=1, bitorder="little")),
        "settings": [_setting(subject, decided, kept_rows) for decided in (measured.common, *measured.decided)],
    }


def grid(decided: Decided) -> npt.NDArray[np.float32]:
    """All places of the slider and the thresholds of the setting, ascending."""
    places = np.arange(STEPS + 1) / STEPS
    own = [threshold for threshold in decided.setting.thresholds if threshold <= 1]  # others are never reached
    return np.unique(np.concatenate([places, own]).astype(np.float32))


def codes(scores: npt.NDArray[np.float32], thresholds: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """How many of the ascending thresholds each score reaches; NaN reaches none."""
    reached = np.searchsorted(thresholds, scores, side="right")
    return np.where(np.isnan(scores), 0, reached).astype(np.uint16)


def _setting(subject: Subject, decided: Decided, kept_rows: npt.NDArray[np.int64]) -> dict[str, Any]:
    thresholds, setting = grid(decided), decided.setting
    at = np.searchsorted(thresholds, np.asarray(setting.thresholds, dtype=np.float32))
    return {
        "title": setting.title,
        "kept": list(setting.exits),
        "exitMacs": list(subject.cost.exit_macs(setting.exits)),
        "grid": [float(f"{value:.7g}") for value in thresholds],
        "at": at.tolist(),
        "codes": _text(codes(decided.scores[:-1][:, kept_rows], thresholds).astype("<u2")),
    }


def _text(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
