"""Flat graphs and graphs for one image say what nested ones say: on every row, at every criterion and precision."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lcprune.exporters.progressive import stitch, write_network
from lcprune.exporters.quantize import Reduced, reduce
from lcprune.exporters.single import fixed_batch
from lcprune.exporters.verify import Parity
from lcprune.models.network import Network
from lcprune.specs import CRITERIA, Criterion
from lcprune_runtime.metadata import ModelInfo
from lcprune_runtime.session import ProgressiveSession, open_session

MakeInfo = Callable[..., ModelInfo]
Written = Callable[..., Parity]
StagesOf = Callable[..., list[onnx.ModelProto]]
PRECISIONS = ("fp32", "int8", "fp16", "w8")
KEPT = (0, 1, 2)
TEMPERATURES = (0.7, 1.0, 1.6, 1.0)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for graph in graphs(model.graph) for node in graph.node}


def opened(model: onnx.ModelProto) -> Any:
    return open_session(model.SerializeToString(), "the model")


def run(session: Any, images: np.ndarray, thresholds: Any) -> tuple[np.ndarray, np.ndarray]:
    logits, exits = session.run(["logits", "exit_index"], {"image": images, "threshold": thresholds})
    return logits, exits


@pytest.fixture(scope="module")
def reduced(stages_of: StagesOf) -> Callable[[str], Reduced | None]:
    """The stages of `network4` in another precision, made once; None for fp32."""
    rng = np.random.default_rng(3)
    calibration = rng.integers(0, 256, (64, 3, 8, 8), dtype=np.uint8)

    @functools.cache
    def make(precision: str) -> Reduced | None:
        return None if precision == "fp32" else reduce(stages_of(*KEPT), precision, calibration)

    return make


@pytest.fixture(scope="module")
def in_precision(stages_of: StagesOf, reduced: Callable[[str], Reduced | None]) -> Callable[[str], list[Any]]:
    def stages(precision: str) -> list[Any]:
        own = reduced(precision)
        return list(own.stages) if own else stages_of(*KEPT)

    return stages


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_flat_is_nested_at_any_batch_size(
    in_precision: Callable[[str], list[Any]], precision: str, criterion: Criterion
) -> None:
    stages = in_precision(precision)
    nested, flat = (
        stitch(stages, [0.5] * 3, "required", criterion, TEMPERATURES, layout) for layout in ("nested", "flat")
    )
    assert "If" in operators(nested)
    assert "If" not in operators(flat)
    onnx.checker.check_model(flat, full_check=True)
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in (*flat.graph.input[:1], *flat.graph.output)] == (
        ["batch"] * 3
    )
    nested_session, flat_session = opened(nested), opened(flat)
    rng, seen = np.random.default_rng(7), set()
    for batch in (0, 1, 1, 1, 7, 33, 33):
        images = rng.random((batch, 3, 8, 8), dtype=np.float32)
        for thresholds in (rng.uniform(0.1, 0.7, 3), [2.0] * 3, [-1.0] * 3, [2.0, -1.0, 2.0], [2.0, 2.0, -1.0]):
            feed = images, np.asarray(thresholds, np.float32)
            (logits, exits), (expected_logits, expected_exits) = run(flat_session, *feed), run(nested_session, *feed)
            assert (logits.shape, exits.shape, exits.dtype) == ((batch, 5), (batch,), np.int64)
            assert exits.tolist() == expected_exits.tolist()
            np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-5 if precision != "fp16" else 1e-2)
            seen |= set(exits.tolist())
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_one_image_at_a_time_is_the_same(
    in_precision: Callable[[str], list[Any]], precision: str, criterion: Criterion
) -> None:
    stages = in_precision(precision)
    nested, single = (
        opened(stitch(made, [0.5] * 3, "required", criterion, TEMPERATURES))
        for made in (stages, list(map(fixed_batch, stages)))
    )
    rng = np.random.default_rng(8)
    images = rng.random((12, 3, 8, 8), dtype=np.float32)
    images[5, 0, 0, 0] = np.nan
    seen, tolerance = set(), 1e-5 if precision != "fp16" else 1e-2
    for given in ([0.45, 0.4, 0.35], [0.2, 0.15, 0.1], [0.1, 0.1, 0.1], [2, -1, 2], [2, 2, -1], [2, 2, 2]):
        feed = {"threshold": np.array(given, np.float32)}
        logits, exits = run(nested, images, feed["threshold"])
        assert exits[5] == 3
        for row in range(12):
            image = {"image": images[row : row + 1]}
            one_logits, one_exit = single.run(["logits", "exit_index"], image | feed)
            assert (one_logits.shape, one_exit.tolist()) == ((1, 5), [exits[row]])
            if row != 5:
                np.testing.assert_allclose(one_logits[0], logits[row], rtol=1e-4, atol=tolerance)
        seen |= set(exits.tolist())
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_dimension_is_left_open_at_batch_1(in_precision: Callable[[str], list[Any]], precision: str) -> None:
    model = stitch(list(map(fixed_batch, in_precision(precision))), [0.5] * 3, "optional")
    assert [value.type.tensor_type.shape.dim[0].dim_value for value in model.graph.output] == [1, 1]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    conditions = []
    for graph in graphs(inferred.graph):
        known = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input, *graph.output)}
        for name, tensor in known.items():
            assert tensor.HasField("shape"), name
            assert all(dim.HasField("dim_value") for dim in tensor.shape.dim), name
        outputs = {name for node in graph.node for name in node.output}
        assert outputs <= set(known)
        conditions += [len(known[node.input[0]].shape.dim) for node in graph.node if node.op_type == "If"]
    assert conditions == [0, 0, 0]  # scalars
    assert not {"NonZero", "GatherND", "ScatterND"} & operators(model)


def test_fewer_rows_have_no_fixed_batch(stages_of: StagesOf) -> None:
    with pytest.raises(ValueError, match="^the rows of a flat model get fewer, so the batch cannot be fixed"):
        stitch(list(map(fixed_batch, stages_of(1))), [0.5], "none", layout="flat")


@pytest.mark.parametrize("threshold_input", ["optional", "required", "none"])
@pytest.mark.parametrize(("layout", "batch"), [("nested", None), ("flat", None), ("nested", 1)])
@pytest.mark.parametrize("suffix", ["onnx", "ort"])
def test_files(
    written: Written,
    images: np.ndarray,
    exported: Path,
    tmp_path: Path,
    suffix: str,
    layout: str,
    batch: int,
    threshold_input: str,
) -> None:
    """Checked against torch as nested files are, and told by their metadata, also in onnxruntime's own format."""
    nested, path = ProgressiveSession(exported), tmp_path / f"model.{suffix}"
    parity = written(path, threshold_input, layout=layout, batch=batch)
    assert (parity.samples, parity.exits_agree, parity.near_threshold) == (33, True, 0)
    assert (path.read_bytes()[4:8] == b"ORTM") == (suffix == "ort")
    assert str(tmp_path).encode() not in path.read_bytes()
    session = ProgressiveSession(path)
    assert session.info == dataclasses.replace(nested.info, layout=layout, batch=batch)
    assert session.takes_thresholds == (threshold_input != "none")
    if session.takes_thresholds:
        assert set(session(images, 2).exits.tolist()) == {3}
    for rows in (0, 1, 33):
        got, expected = session(images[:rows]), nested(images[:rows])
        assert got.exits.tolist() == expected.exits.tolist()
        assert got.logits.shape == (rows, 5)
        np.testing.assert_allclose(got.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_a_submodel_for_one_image(network4: Network, images: np.ndarray, make_info: MakeInfo, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_network(network4.truncated(2), (), path, dataclasses.replace(make_info(1), batch=1), images)
    session = ProgressiveSession(path)
    assert session.runtime.get_inputs()[0].shape == [1, 3, 8, 8]
    assert [session(images[:rows]).logits.shape for rows in (0, 3)] == [(0, 5), (3, 5)]
