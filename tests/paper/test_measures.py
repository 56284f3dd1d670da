"""What is read of logits, losses and matrices, by hand."""

import numpy as np
import pytest

from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.representation import Dissimilarities
from lcprune.paper import measures
from lcprune.paper.measures import LossEvolution


def logits_of(*classes: tuple[int, ...], confidence: float = 5.0) -> np.ndarray:
    return confidence * np.eye(10, dtype=np.float32)[np.array(classes)]  # (K, N, 10)


def test_accuracy_of_exits_and_ensembles() -> None:
    logits = logits_of((0, 1, 2, 3), (0, 1, 2, 9), (0, 1, 9, 9))
    logits[2] /= 5  # main is unsure, so that the others outvote it
    labels = np.array([0, 1, 2, 3])
    found = {of: measures.accuracy_pct(logits, labels, of) for of in ("sub-model 1", "sub-model 2", "main")}
    assert found == {"sub-model 1": 100, "sub-model 2": 75, "main": 50}
    logits[0] *= 2  # the first exit is the surest
    assert measures.accuracy_pct(logits, labels, "1+2") == 100
    logits[2, 3] *= 20  # but of the last image main is
    assert measures.accuracy_pct(logits, labels, "1+2+main") == 75
    assert measures.accuracy_pct(logits, labels, "probabilities 1+2") == 100
    assert measures.accuracy_pct(logits, labels, "probabilities 1+2+main") == 75
    with pytest.raises(ValueError, match="there is no sub-model 3"):
        measures.accuracy_pct(logits, labels, "sub-model 3")


def test_top_five_of_main() -> None:
    logits = np.arange(10, dtype=np.float32)[None, None].repeat(3, axis=1)  # the best five are 9, 8, 7, 6 and 5
    assert measures.accuracy_pct(logits, np.array([9, 5, 4]), "top-5") == pytest.approx(200 / 3)


def test_the_papers_flop_of_a_mean_image_counts_where_it_leaves() -> None:
    logits = logits_of((0, 0, 0, 0), (0, 0, 0, 0))
    labels = np.array([0, 0, 0, 1])
    logits[0, 2:] /= 100  # half of the images stay
    found = measures.early_exits(logits, labels, "0.9", CascadeCost((10, 30), (5,)), [100, 400])
    assert found["exit_fractions"] == (0.5, 0.5)
    assert found["accuracy_pct"] == 75
    assert found["paper_flop"] == (100 + 400) / 2
    assert found["mean_macs"] == (15 + 45) / 2
    assert found["macs_ratio"] == 30 / 40
    main = measures.early_exits(logits, labels, "main", CascadeCost((10, 30), (5,)), [100, 400])
    assert (main["mean_macs"], main["paper_flop"], main["exit_fractions"]) == (40, 400, (0.0, 1.0))


def test_contrast_of_a_layer() -> None:
    matrix = np.array([[0, 0.2, 1, 1], [0.2, 0, 1, 1], [1, 1, 0, 0.4], [1, 1, 0.4, 0]], dtype=np.float32)
    found = Dissimilarities(("output",), matrix[None], np.array([0, 0, 1, 1]), (), "test")
    assert measures.contrasts(found) == [pytest.approx(1 - 0.3)]


def test_correlation_of_losses_with_main() -> None:
    losses = np.array([[[1, 2, 3], [3, 2, 1], [5, 5, 5], [2, 4, 6]]], dtype=np.float32)  # one step, four exits
    found = measures.correlations(LossEvolution(("a", "b", "c", "main"), np.array([0]), losses, np.arange(3)))
    np.testing.assert_allclose(found, [[1, -1, 0, 1]])
