"""onnxruntime's own format: what is damaged or of others, and the operators for a reduced build."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lcprune.errors import OnnxModelError
from lcprune.exporters.ort import required_operators
from lcprune.exporters.progressive import write_network
from lcprune.models.network import Network
from lcprune_runtime.metadata import ModelInfo
from lcprune_runtime.session import ProgressiveSession

MakeInfo = Callable[..., ModelInfo]


@pytest.mark.usefixtures("quick_export")
def test_the_operators_of_a_reduced_build(
    network4: Network, images: np.ndarray, make_info: MakeInfo, tmp_path: Path
) -> None:
    paths = []
    for name, layout in (("a", "nested"), ("b", "flat")):
        paths.append(tmp_path / f"{name}.ort")
        info: Any = dataclasses.replace(make_info(0, 1, 2, 3), layout=layout)
        write_network(network4, [0, 1, 2], paths[-1], dataclasses.replace(info, thresholds=tuple([0.5] * 3)), images)
    nested, flat = (required_operators(path) for path in paths)
    lines = [line.split(";") for line in nested.splitlines()]
    assert all(len(parts) == 3 and parts[1].isdecimal() for parts in lines)  # domain;opset;operators
    names = {name for parts in lines for name in parts[2].split(",")}
    assert {"If", "ScatterND", "Softmax", "NonZero"} <= names
    assert "If" not in flat
    together = {name for line in required_operators(*paths).split() for name in line.split(";")[2].split(",")}
    assert together == names | {name for line in flat.split() for name in line.split(";")[2].split(",")}


@pytest.mark.parametrize("keep", [8, 200, -1000])
def test_a_damaged_file(exported: Path, tmp_path: Path, keep: int) -> None:
    from lcprune.exporters.ort import convert

    path = tmp_path / "model.ort"
    path.write_bytes(convert(exported.read_bytes())[:keep])
    with pytest.raises(OnnxModelError, match="cannot load"):
        ProgressiveSession(path)


def test_a_file_of_others(tmp_path: Path) -> None:
    from lcprune.exporters.ort import convert

    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("image", "logits")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Abs", ["image"], ["logits"])], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    (tmp_path / "model.ort").write_bytes(convert(model.SerializeToString()))
    with pytest.raises(OnnxModelError, match="was not written by lcprune"):
        ProgressiveSession(tmp_path / "model.ort")
