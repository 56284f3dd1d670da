"""Untrusted ONNX files and manifests: each ends in an `OnnxModelError`, none in anything else."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lcprune.errors import OnnxModelError
from lcprune.exporters.metadata import attach
from lcprune_runtime import model_file
from lcprune_runtime.metadata import ModelInfo, load_model
from lcprune_runtime.segment_session import open_model
from lcprune_runtime.session import ProgressiveSession

MakeInfo = Callable[..., ModelInfo]
IMAGE = np.zeros((2, 3, 8, 8), np.float32)


def constant(name: str, value: object) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def model_of(*nodes: onnx.NodeProto, constants: tuple[TensorProto, ...] = (), exits: bool = False) -> onnx.ModelProto:
    """A graph on images ``(batch, 3, 8, 8)``."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    if exits:
        outputs.append(helper.make_tensor_value_info("exit_index", TensorProto.INT64, None))
    graph = helper.make_graph(nodes, "g", [image], outputs, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def saved(path: Path, model: onnx.ModelProto, info: ModelInfo) -> Path:
    attach(model, dataclasses.replace(info, temperatures=(1.0,) * len(info.exits)))
    path.write_bytes(model.SerializeToString())
    return path


FLATTEN = helper.make_node("Flatten", ["image"], ["logits"])


def with_value(path: Path, key: str, value: str) -> Path:
    model = onnx.load(path)
    next(entry for entry in model.metadata_props if entry.key == f"lcprune.{key}").value = value
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", "[" * 100_000),  # deeper than Python's stack
        ("classes", '"abc"'),
        ("classes", '["\\u001b]0;owned\\u0007"]'),  # a terminal would obey
        ("main_macs", "true"),
        ("main_macs", "9" * 5000),
        ("exit_macs", "[-1]"),
        ("mean", "[NaN, 0, 0]"),
        ("std", "[0.5]"),
        ("exits", '["ab"]'),
        ("exits", '[{"name": {}, "exit_index": 0, "macs": 1, "params": 1}]'),
        ("exits", '[{"name": "main", "exit_index": 0, "macs": 1, "params": 1, "val_accuracy_pct": "<b>"}]'),
        ("input", '{"size": 1000000000, "channels": 3}'),
        ("input", '{"size": 8, "channels": 300000}'),
        ("input", '{"size": 8, "channels": 3, "interpolation": "evil"}'),
        ("input", '{"size": 8, "channels": 3, "resize": "shorter_side", "crop": "center", "shorter_side": 1000000}'),
        ("input", '{"size": 8, "channels": 3, "crop": "center"}'),
        ("batch", "[1]"),
        ("kind", "other"),
        ("kind", "progressive"),
        ("thresholds", "[0.5]"),
        ("version", "\x1b[2J"),
    ],
)
def test_metadata_that_was_made_up(tmp_path: Path, make_info: MakeInfo, key: str, value: str) -> None:
    path = with_value(saved(tmp_path / "m.onnx", model_of(FLATTEN), make_info(0)), key, value)
    with pytest.raises(OnnxModelError, match=r"m\.onnx (is damaged|contradicts)") as caught:
        load_model(path)
    assert len(caught.value.problem) < 600


def test_metadata_without_end(tmp_path: Path, make_info: MakeInfo) -> None:
    path = saved(tmp_path / "m.onnx", model_of(FLATTEN), make_info(0))
    with pytest.raises(OnnxModelError, match="too long"):
        load_model(with_value(path, "classes", "[" + "1," * 3_000_000 + "1]"))


def test_text_that_is_no_utf_8(tmp_path: Path, make_info: MakeInfo) -> None:
    """Found by fuzzing: protobuf then gives bytes."""
    path = saved(tmp_path / "m.onnx", model_of(FLATTEN), make_info(0))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"lcprune.kind", b"lcprune.\xff\xfe\xff\xfe"))
    with pytest.raises(OnnxModelError, match="no text"):
        load_model(path)
    domain = helper.make_node("Flatten", ["image"], ["logits"], domain="evil")
    path.write_bytes(saved(path, model_of(domain), make_info(0)).read_bytes().replace(b"evil", b"\xff\xfe\xff\xfe"))
    with pytest.raises(OnnxModelError, match="operators of"):
        load_model(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(model_file.MAX_BYTES + 1)  # takes no room on the disk
    monkeypatch.setattr(model_file, "_inspect", lambda _: pytest.fail("it was parsed"))
    for opens in (load_model, ProgressiveSession):
        with pytest.raises(OnnxModelError, match="too large"):
            opens(path)
    with path.open("r+b") as file:
        file.write(b"....ORTM")
    with pytest.raises(OnnxModelError, match="too large"):
        ProgressiveSession(path)


def test_a_device_is_no_model() -> None:
    for opens in (load_model, ProgressiveSession):
        with pytest.raises(OnnxModelError, match="/dev/zero cannot be read: it is no file"):
            opens(Path("/dev/zero"))


def test_functions_and_files_by_way_of_an_operator_are_refused(tmp_path: Path, make_info: MakeInfo) -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="/etc/passwd")
    hidden = helper.make_node("Constant", [], ["y"], value=weight)
    model = model_of(FLATTEN)
    model.functions.append(helper.make_function("", "f", [], ["y"], [hidden], model.opset_import))
    with pytest.raises(OnnxModelError, match="functions"):
        load_model(saved(tmp_path / "m.onnx", model, make_info(0)))
    context = helper.make_node("EPContext", ["image"], ["logits"], domain="com.microsoft", ep_cache_context="/x.so")
    with pytest.raises(OnnxModelError, match="EPContext"):
        load_model(saved(tmp_path / "m.onnx", model_of(context), make_info(0)))


@pytest.mark.parametrize("form", ["a list of tensors", "a sparse tensor"])
def test_external_data_is_refused_wherever_it_is(tmp_path: Path, make_info: MakeInfo, form: str) -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="weights.bin")
    model = model_of(FLATTEN)
    if form == "a sparse tensor":
        model.graph.sparse_initializer.add(values=weight)
    else:
        model.graph.node.append(helper.make_node("Constant", [], ["y"], value=[weight]))
    with pytest.raises(OnnxModelError, match="other files"):
        load_model(saved(tmp_path / "m.onnx", model, make_info(0)))


def test_a_graph_that_fails_when_it_runs(tmp_path: Path, make_info: MakeInfo) -> None:
    reshape = helper.make_node("Reshape", ["image", "shape"], ["logits"])
    model = model_of(reshape, constants=(constant("shape", np.array([7, 11])),))
    session = ProgressiveSession(saved(tmp_path / "m.onnx", model, make_info(0)))
    with pytest.raises(OnnxModelError, match=r"cannot run m\.onnx"):
        session(IMAGE)


def test_a_graph_that_says_other_classes_or_exits_than_its_metadata(tmp_path: Path, make_info: MakeInfo) -> None:
    session = ProgressiveSession(saved(tmp_path / "m.onnx", model_of(FLATTEN), make_info(0)))  # 192 "classes"
    with pytest.raises(OnnxModelError, match="do not match its metadata"):
        session(IMAGE)
    nodes = (
        helper.make_node("Slice", ["image", "0", "5", "3"], ["some"]),
        helper.make_node("ReduceMax", ["some", "axes"], ["logits"], keepdims=0),
        helper.make_node("Identity", ["exits"], ["exit_index"]),
    )
    constants = [constant(name, np.array([int(name)])) for name in ("0", "5", "3")] + [constant("axes", [1, 2])]
    for exits in ([0, 9], [-1, 0], [0]):
        model = model_of(*nodes, constants=(*constants, constant("exits", exits)), exits=True)
        info = dataclasses.replace(make_info(0, 1), kind="progressive", thresholds=(0.5,))
        session = ProgressiveSession(saved(tmp_path / "m.onnx", model, info))
        with pytest.raises(OnnxModelError, match="do not match its metadata"):
            session(IMAGE)


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b"\xff\xfe", b'{"format": 1}', b'{"format": 1, "metadata": []}', b" " * (5 * 2**20)],
)
def test_a_manifest_that_was_made_up(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(OnnxModelError):
        open_model(tmp_path)


def test_a_manifest_cannot_name_more_files_than_exits(tmp_path: Path, make_info: MakeInfo) -> None:
    info = dataclasses.replace(make_info(0, 1), kind="progressive", thresholds=(0.5,), temperatures=(1.0, 1.0))
    content = {"format": 1, "metadata": dataclasses.asdict(info), "segments": [{}] * 100_000}
    (tmp_path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(OnnxModelError, match="one file for each exit"):
        open_model(tmp_path)
