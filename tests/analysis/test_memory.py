"""The logits of a large data set are looked at in pieces: what the analysis needs besides them stays small."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from lcprune.analysis.budget import Family
from lcprune.analysis.cost import CascadeCost, ExitCost
from lcprune.analysis.ensembles import ensembles
from lcprune.analysis.evaluate import sweep
from lcprune.analysis.select import candidates_from
from lcprune.analysis.thresholds import rows_of

COST = CascadeCost((10, 20, 30), (1, 2))
COSTS = [ExitCost("", k, macs, macs) for k, macs in enumerate((10, 30, 60))]
SHARE = 0.15
"""Of the input, at most: one exponential of one exit's logits would be 0.33 of it."""


@pytest.fixture(scope="module")
def predictions() -> tuple[np.ndarray, np.ndarray]:
    """``(3, 2000, 1000)`` logits, 24 MB, and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, 2000)
    logits = rng.standard_normal((3, 2000, 1000), dtype=np.float32)
    for k, of_exit in enumerate(logits):
        of_exit[np.arange(2000), labels] += 3 + k
    return logits, labels


def share_of(logits: np.ndarray, run: Callable[[], object]) -> float:
    """The most memory that ``run`` needs at one time, over that of the logits."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1] / logits.nbytes
    finally:
        tracemalloc.stop()


def test_evaluate(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    assert share_of(predictions[0], lambda: ensembles(*predictions)) < SHARE
    assert share_of(predictions[0], lambda: sweep(*predictions, COST.exit_macs(), COST.main_macs)) < SHARE


def test_thresholds(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    def chosen() -> object:
        return Family({"softmax": rows_of(*predictions, COST)}).within_drop(0.5)

    assert share_of(predictions[0], chosen) < SHARE


def test_select(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    assert share_of(predictions[0], lambda: candidates_from(COSTS, predictions, confidence=0.95)) < SHARE
