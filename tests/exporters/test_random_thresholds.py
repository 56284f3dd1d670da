"""Ten thousand random thresholds: every row leaves where numpy says, from the graph's own logits at every exit.

The logits come from `stage_logits`, which runs the same stages without branches. Of a convolutional network they may
differ in the last digit from batch to batch, and exponentials do from runtime to runtime: a score this near to a
threshold may fall on either side, and all others may not. The second network has scores without rounding; there, a
score that is its threshold leaves, and no row is excused.
"""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lcprune.exporters.progressive import stitch
from lcprune.exporters.verify import stage_logits
from lcprune.specs import CRITERIA, Criterion
from lcprune_runtime.criterion import exit_scores
from lcprune_runtime.session import open_session

StagesOf = Callable[..., list[onnx.ModelProto]]
FORMS = ("nested", "flat")
VECTORS = 1250  # of each of 4 criteria and 2 forms: 10,000
BATCHES = (0, 1, 7, 256)
ROWS = 256
TEMPERATURES = (0.7, 1.0, 1.6, 1.0)
UNSURE = 1e-6
SPOILT = 11
"""The row that has a pixel which is not finite."""


def sure_images(stages: list[onnx.ModelProto], rng: np.random.Generator) -> np.ndarray:
    """Images that are of one class, not nearly of two, at every exit; one of them has no number as a pixel."""
    images = rng.random((2 * ROWS, 3, 8, 8), dtype=np.float32)
    second, first = np.moveaxis(np.sort(stage_logits(stages, images), axis=-1)[..., -2:], -1, 0)
    images = images[(first - second > 1e-3).all(axis=0)][:ROWS]
    images[SPOILT, 1, 2, 3] = np.inf
    return images


def drawn(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Thresholds ``(VECTORS, exits)``: anywhere, on a score, midway between two, under all and over all."""
    columns = []
    for of_exit in scores:
        levels = np.unique(of_exit[np.isfinite(of_exit)])
        apart = np.flatnonzero(np.diff(levels) > 4 * UNSURE)
        midway = (levels[apart] + levels[apart + 1]) / 2
        kinds = [
            rng.uniform(levels[0], levels[-1], VECTORS),
            rng.choice(levels, VECTORS),
            rng.choice(midway, VECTORS),
            rng.choice([-1.0, 0.0, 1.01, 2.0], VECTORS),
        ]
        columns.append(np.choose(rng.choice(4, VECTORS, p=[0.4, 0.2, 0.3, 0.1]), kinds))
    return np.stack(columns, axis=1).astype(np.float32)


def leave_at(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The first exit whose score is no less than its threshold, else main.

    Args:
        scores: ``(exits, VECTORS, batch)``.
        thresholds: ``(VECTORS, exits)``.
    """
    leaves = scores >= thresholds.T[:, :, None]
    return np.concatenate([leaves, np.ones((1, *leaves.shape[1:]), dtype=bool)]).argmax(axis=0)


def rows_of(batch: int, rng: np.random.Generator) -> np.ndarray:
    """What goes through with each vector, ``(VECTORS, batch)``."""
    return np.tile(np.arange(ROWS), (VECTORS, 1)) if batch == ROWS else rng.integers(0, ROWS, (VECTORS, batch))


def outcomes(
    graph: onnx.ModelProto, images: np.ndarray, rows: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``(VECTORS, batch, classes)`` and exits ``(VECTORS, batch)``, the thresholds given at run time."""
    session = open_session(graph.SerializeToString(), "the model", threads=1)
    feeds = ({"image": images[some], "threshold": given} for some, given in zip(rows, thresholds, strict=True))
    logits, exits = zip(*(session.run(["logits", "exit_index"], feed) for feed in feeds), strict=True)
    return np.stack(logits), np.stack(exits)


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_row_leaves_where_numpy_says(stages_of: StagesOf, criterion: Criterion, layout: str) -> None:
    stages = stages_of(0, 1, 2)
    rng = np.random.default_rng([list(CRITERIA).index(criterion), FORMS.index(layout)])
    images = sure_images(stages, rng)
    logits = stage_logits(stages, images)
    scores = exit_scores(logits[:-1], criterion, TEMPERATURES[:-1])[0]
    scores[:, SPOILT] = np.nan
    unsure = np.where(scores == 0, 0, np.float32(UNSURE))  # where classes disagree, nothing is rounded
    graph = stitch(stages, [0.5] * 3, "required", criterion, TEMPERATURES, layout)
    thresholds, counts, excused = drawn(scores, rng), np.zeros(4, dtype=np.int64), 0
    for batch in BATCHES:
        rows = rows_of(batch, rng)
        got_logits, exits = outcomes(graph, images, rows, thresholds)
        earliest, latest = (leave_at((scores + sign * unsure)[:, rows], thresholds) for sign in (1, -1))
        assert exits.shape == (VECTORS, batch)
        np.testing.assert_array_less(earliest - 1, exits)
        np.testing.assert_array_less(exits, latest + 1)
        np.testing.assert_array_equal(exits[rows == SPOILT], 3)
        sane = rows != SPOILT
        np.testing.assert_allclose(got_logits[sane], logits[exits, rows][sane], rtol=1e-4, atol=1e-5)
        counts += np.bincount(exits.ravel(), minlength=4)
        excused += int(np.sum(earliest < latest))
    assert counts.sum() == VECTORS * sum(BATCHES)
    assert counts.min() > 0.02 * counts.sum()  # every exit was taken, and often
    assert 0 < excused < 0.005 * counts.sum()


def exact_stages(classes: int) -> list[onnx.ModelProto]:
    """Four stages whose logits are the pixels: exit k says the k-th row of ``(4, classes, 1)``."""

    def stage(k: int) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4, classes, 1])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
        nodes = [
            helper.make_node("Gather", ["image", "k"], ["of_exit"], axis=1),
            helper.make_node("Flatten", ["of_exit"], ["logits"], axis=1),
        ]
        if k < 3:
            nodes.append(helper.make_node("Identity", ["image"], ["hidden"]))
        hidden = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", 4, classes, 1])
        outputs = [hidden, logits] if k < 3 else [logits]
        graph = helper.make_graph(nodes, "stage", [image], outputs, [numpy_helper.from_array(np.array(k), "k")])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    return [stage(k) for k in range(4)]


def exact_pixels(classes: int, rng: np.random.Generator) -> np.ndarray:
    """Some logits of a row are 0 and the others 512 below: probabilities of 1, 1/2, 1/3 .., and 0."""
    pixels = np.full((ROWS, 4, classes, 1), -512, dtype=np.float32)
    several = rng.integers(1, classes + 1, (ROWS, 4))
    for row, exit_index in np.ndindex(*several.shape):
        pixels[row, exit_index, rng.permutation(classes)[: several[row, exit_index]]] = 0
    pixels[SPOILT, 3, 0] = np.nan
    return pixels


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("criterion", ["softmax", "margin", "agreement"])
def test_a_score_that_is_its_threshold_leaves_and_no_row_is_excused(criterion: Criterion, layout: str) -> None:
    stages, rng = exact_stages(4), np.random.default_rng(0)
    images = exact_pixels(4, rng)
    temperatures = (0.5, 1.0, 2.0, 4.0)
    scores = exit_scores(stage_logits(stages, images)[:-1], criterion, temperatures[:-1])[0]
    assert set(np.unique(scores)) <= {np.float32(level) for level in (0, 1 / 4, 1 / 3, 1 / 2, 1)}
    scores[:, SPOILT] = np.nan
    graph = stitch(stages, [0.5] * 3, "required", criterion, temperatures, layout)
    levels = np.unique(scores[np.isfinite(scores)])
    on_and_beside = np.concatenate([levels, np.nextafter(levels, np.float32(2)), np.nextafter(levels, np.float32(-1))])
    thresholds = rng.choice(on_and_beside, (VECTORS, 3))
    for batch in BATCHES:
        rows = rows_of(batch, rng)
        _, exits = outcomes(graph, images, rows, thresholds)
        np.testing.assert_array_equal(exits, leave_at(scores[:, rows], thresholds))
    assert np.sum(scores[:, rows] == thresholds.T[:, :, None]) > 30 * VECTORS  # of the largest batch
