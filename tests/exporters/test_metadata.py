import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from lcprune.errors import ExportError
from lcprune.exporters import metadata
from lcprune.exporters.metadata import attach, refuse_unreadable
from lcprune_runtime.metadata import MAX_SIDE, InputInfo, ModelInfo, read_info

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
