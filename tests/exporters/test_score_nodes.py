"""The scores in the graph and in numpy, for what runs it and for the choice of thresholds, are alike."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.thresholds import MIN_GAP, rows_of
from lcprune.exporters.score_nodes import score_nodes
from lcprune.exporters.stages import OPSET
from lcprune.specs import CRITERIA, Criterion
from lcprune_runtime.criterion import exit_scores, row_scores
from lcprune_runtime.session import open_session

FLOOR = np.finfo(np.float32).min


def score_model(
    classes: int, criterion: Criterion, temperature: float = 1.0, class_before: str | None = None
) -> onnx.ModelProto:
    """The nodes of one exit, from its logits to its score and, for agreement, its class."""
    nodes, constants = score_nodes("exit.", "logits", classes, criterion, temperature, class_before)
    inputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])]
    if class_before:
        inputs.append(helper.make_tensor_value_info(class_before, TensorProto.INT64, ["n"]))
    outputs = [helper.make_tensor_value_info("exit.score", TensorProto.FLOAT, ["n"])]
    if criterion == "agreement":
        outputs.append(helper.make_tensor_value_info("exit.class", TensorProto.INT64, ["n"]))
    graph = helper.make_graph(nodes, "score", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, **feed: np.ndarray) -> list[np.ndarray]:
    found = open_session(model.SerializeToString(), "the score", threads=1).run(None, feed)
    return [np.asarray(value) for value in found]


def drawn(n: int, classes: int, seed: int = 0) -> np.ndarray:
    """Logits ``(n, classes)``, from hardly different to far apart."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, classes)) * rng.choice([0.01, 0.3, 1, 3, 10, 100], (n, 1))).astype(np.float32)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("temperature", [1.0, 0.05, 0.7, 3.0, 20.0])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_one_score_in_two_places(criterion: Criterion, temperature: float, classes: int) -> None:
    """Thresholds lie no nearer than half of `MIN_GAP` to a score: so far the two may be apart, and no further."""
    logits = drawn(300, classes)
    in_graph = run(score_model(classes, criterion, temperature), logits=logits)[0]
    in_numpy = row_scores(logits, criterion, temperature)[0]
    assert in_graph.dtype == in_numpy.dtype == np.float32
    assert in_graph.shape == in_numpy.shape == (300,)
    assert np.abs(in_graph - in_numpy).max() < MIN_GAP / 2
    assert in_graph.min() >= 0  # a threshold of 0 lets all rows leave
    assert in_graph.max() < 1.000001


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_logit_that_is_no_number_gives_a_score_that_is_none(
    criterion: Criterion, bad: float, temperature: float
) -> None:
    logits = drawn(9, 4)
    logits[3, 2] = bad
    logits[7] = bad
    for found in (
        run(score_model(4, criterion, temperature), logits=logits)[0],
        row_scores(logits, criterion, temperature)[0],
    ):
        assert np.flatnonzero(np.isnan(found)).tolist() == [3, 7]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.05])
def test_logits_as_far_apart_as_float32_goes(criterion: Criterion, temperature: float) -> None:
    """No warning, and the same everywhere: NaN where infinity comes in, by a division or times 0."""
    logits = np.array([[FLOOR, -FLOOR, 0]], dtype=np.float32)
    expected = [np.nan if temperature < 1 or (criterion, temperature) == ("entropy", 1.0) else 1.0]
    np.testing.assert_array_equal(run(score_model(3, criterion, temperature), logits=logits)[0], expected)
    np.testing.assert_array_equal(row_scores(logits, criterion, temperature)[0], expected)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_agreement_with_the_exit_before(temperature: float) -> None:
    logits = drawn(200, 4)
    logits[9] = np.nan
    before = np.random.default_rng(1).integers(0, 4, 200)
    model = score_model(4, "agreement", temperature, "before")
    found, classes = run(model, logits=logits, before=before)
    own = row_scores(logits, "agreement", temperature)[0]
    sane = np.arange(200) != 9
    np.testing.assert_array_equal(classes[sane], logits.argmax(axis=1)[sane])
    np.testing.assert_allclose(found[sane], np.where(classes == before, own, 0)[sane], atol=MIN_GAP / 2)
    assert np.isnan(found[9])
    assert 20 < np.sum(found == 0) < 190


def test_the_class_is_that_of_the_logits_as_they_are() -> None:
    """Divided by 1.5 the two are one number, and the first would be the class."""
    smaller = np.float32(1.75) + np.float32(2) ** -22
    logits = np.array([[smaller, np.nextafter(smaller, np.float32(2))]], dtype=np.float32)
    assert np.ptp(logits / np.float32(1.5)) == 0
    assert run(score_model(2, "agreement", 1.5), logits=logits)[1].tolist() == [1]
    assert row_scores(logits, "agreement", 1.5)[1].tolist() == [1]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("kept", [(0,), (1, 2), (0, 2), (0, 1, 2)])
def test_the_scores_of_a_cascade_are_those_that_the_search_sees(criterion: Criterion, kept: tuple[int, ...]) -> None:
    logits = np.stack([drawn(200, 3, seed) for seed in range(4)])
    temperatures = (0.6, 1.0, 1.9, 1.0)
    cost = CascadeCost((1, 1, 1, 1), (1, 1, 1))
    rows = rows_of(logits, np.zeros(200, dtype=np.int64), cost, criterion, temperatures)
    found = exit_scores(logits[list(kept)], criterion, [temperatures[k] for k in kept])[0]
    assert found.shape == (len(kept), 200)
    assert np.abs(found - rows.scores(kept)).max() < MIN_GAP / 2
    before = None
    for at, k in enumerate(kept):
        model = score_model(3, criterion, temperatures[k], "before" if before is not None else None)
        feed = {"logits": logits[k]} | ({"before": before} if before is not None else {})
        in_graph, *classes = run(model, **feed)
        assert np.abs(in_graph - found[at]).max() < MIN_GAP / 2
        before = classes[0] if criterion == "agreement" else None


def test_temperatures_of_rows_that_left_at_different_exits() -> None:
    logits = drawn(5, 4)
    temperatures = np.array([1, 2, 0.5, 1, 3], dtype=np.float32)
    each = [row_scores(logits[row : row + 1], "margin", float(temperatures[row]))[0][0] for row in range(5)]
    np.testing.assert_array_equal(row_scores(logits, "margin", temperatures)[0], each)
