"""The data of the slider: scores in float32, on which the page's script decides as Python does."""

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lcprune.reporting.page.measured import Measured, Simulation
from lcprune.reporting.page.subject import MacsUnit, Subject

STEPS = 1000
"""The slider goes from 0 to 1 in so many steps; one further is a threshold that nothing reaches."""
MOST_SAMPLES = 20_000


def sampled(n: int) -> npt.NDArray[np.int64]:
    """Which of ``n`` rows are embedded: all, or `MOST_SAMPLES` of them, evenly."""
    return np.linspace(0, n - 1, min(n, MOST_SAMPLES)).astype(np.int64)


def embedded_simulation(simulation: Simulation) -> Simulation:
    """The same thresholds on the embedded rows."""
    return replace(simulation, rows=simulation.rows.take(sampled(simulation.rows.n)))


def embedded(subject: Subject, measured: Measured, common: Simulation, unit: MacsUnit) -> dict[str, Any]:
    """What the page's script reads; `common` is what it begins with."""
    rows = sampled(measured.rows.n)
    return {
        "samples": len(rows),
        "names": [cost.name for cost in subject.exits],
        "mainMacs": subject.cost.main_macs,
        "unit": unit.divisor,
        "steps": STEPS,
        "correct": _base64(np.packbits(measured.rows.correct[:, rows], axis=1, bitorder="little")),
        "settings": [
            {
                "kept": list(simulation.setting.exits),
                "thresholds": list(simulation.setting.thresholds),
                "exitMacs": list(subject.cost.exit_macs(simulation.setting.exits)),
                "scores": _base64(simulation.scores[:-1][:, rows].astype("<f4")),
            }
            for simulation in (common, *measured.simulations)
        ],
    }


def _base64(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
