import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lcprune.errors import ExportError, OnnxModelError
from lcprune.exporters.metadata import attach, refuse_unreadable
from lcprune_runtime import metadata
from lcprune_runtime.metadata import MAX_SIDE, InputInfo, ModelInfo, load_model, read_info

MakeInfo = Callable[..., ModelInfo]


def model_with(
    node: onnx.NodeProto, initializers: list[TensorProto] | None = None, domain: str = ""
) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("image", "logits")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], initializers or [])
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets)


def complete(info: ModelInfo) -> ModelInfo:
    return dataclasses.replace(info, temperatures=(1.0,) * len(info.exits))


IDENTITY = helper.make_node("Identity", ["image"], ["logits"])


def test_round_trip(tmp_path: Path, make_info: MakeInfo) -> None:
    info = dataclasses.replace(
        complete(make_info(0, 2, 3)), kind="progressive", thresholds=(0.1, 0.9), classes=("ä", '"b"', "c,d")
    )
    model = model_with(IDENTITY)
    attach(model, info)
    attach(model, info)  # replaces
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    assert read_info(path) == info
    keys = [entry.key for entry in model.metadata_props]
    assert len(keys) == len(set(keys))
    assert {"version", "classes", "mean", "std", "exits", "thresholds", "temperatures", "input", "recipe_sha256"} <= {
        key.removeprefix("lcprune.") for key in keys
    }


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100, b"\x08\x0a"])
def test_what_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(OnnxModelError, match="no ONNX model"):
        load_model(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(OnnxModelError, match="cannot be read"):
            load_model(path)


def test_a_truncated_file(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    content = exported.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(OnnxModelError):
        load_model(path)


def test_a_model_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model_with(IDENTITY), path)
    with pytest.raises(OnnxModelError, match="not written by lcprune"):
        read_info(path)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("exits", "[{}]", "damaged"),
        ("mean", "not json", "damaged"),
        ("kind", "other", "damaged"),
        ("input", '{"size": 8}', "damaged"),
        ("input", "[1]", "damaged"),
        ("thresholds", "[0.5]", "contradicts"),
        ("classes", "[]", "contradicts"),
        ("kind", "progressive", "contradicts"),
    ],
)
def test_damaged_metadata(tmp_path: Path, make_info: MakeInfo, key: str, value: str, problem: str) -> None:
    model = model_with(IDENTITY)
    attach(model, complete(make_info(0)))
    next(entry for entry in model.metadata_props if entry.key == f"lcprune.{key}").value = value
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    with pytest.raises(OnnxModelError, match=problem):
        read_info(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"classes": ("a", "red\x1b[31m")}, "no name"),
        ({"input": InputInfo(MAX_SIDE + 1, 3)}, "no whole number from 1 to 4096"),
    ],
)
def test_what_could_not_be_opened_again_is_not_written(
    make_info: MakeInfo, change: dict[str, Any], problem: str
) -> None:
    model = onnx.ModelProto()
    attach(model, complete(make_info(0)))
    refuse_unreadable(model)
    attach(model, dataclasses.replace(complete(make_info(0)), **change))
    with pytest.raises(ExportError, match=f"the file could not be opened again: .*{problem}") as caught:
        refuse_unreadable(model)
    assert "4096 pixels" in caught.value.fix


def test_a_model_that_is_too_large_to_be_opened_is_not_written(
    make_info: MakeInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.ModelProto()
    attach(model, complete(make_info(0)))
    size = len(model.SerializeToString())
    monkeypatch.setattr(metadata, "MAX_BYTES", size)
    refuse_unreadable(model)
    monkeypatch.setattr(metadata, "MAX_BYTES", size - 1)
    with pytest.raises(ExportError, match=f"the model has {size} bytes") as caught:
        refuse_unreadable(model)
    assert "--precision int8" in caught.value.fix


def test_foreign_operators_are_refused_in_branches_too(tmp_path: Path, make_info: MakeInfo) -> None:
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])]
    foreign = helper.make_graph([helper.make_node("Evil", ["image"], ["y"], domain="evil")], "b", [], outputs)
    harmless = helper.make_graph([helper.make_node("Identity", ["image"], ["y"])], "b", [], outputs)
    branch = helper.make_node("If", ["condition"], ["logits"], then_branch=harmless, else_branch=foreign)
    model = model_with(branch, [numpy_helper.from_array(np.array(True), "condition")])
    attach(model, complete(make_info(0)))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxModelError, match="operators of evil"):
        load_model(path)


def test_weights_in_other_files_are_refused(tmp_path: Path, make_info: MakeInfo) -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="../../secret")
    model = model_with(helper.make_node("Add", ["image", "w"], ["logits"]), [weight])
    attach(model, complete(make_info(0)))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxModelError, match="other files"):
        load_model(path)
