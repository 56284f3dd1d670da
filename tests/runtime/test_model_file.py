"""What is read of an ONNX file without the package onnx is what that package reads."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from lcprune_runtime.errors import OnnxModelError
from lcprune_runtime.model_file import read_onnx

FLOAT = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])


def external() -> TensorProto:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def saved(path: Path, *nodes: onnx.NodeProto, **parts: object) -> Path:
    graph = helper.make_graph(nodes, "g", [FLOAT], [FLOAT], **parts)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def branch(*nodes: onnx.NodeProto, **parts: object) -> onnx.NodeProto:
    inner = helper.make_graph(nodes, "b", [], [FLOAT], **parts)
    return helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)


def test_the_metadata_of_a_real_file(run: Path) -> None:
    path = run / "export/progressive.onnx"
    content, properties = read_onnx(path)
    assert content == path.read_bytes()
    assert properties == {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize("deep", [0, 1, 5])
@pytest.mark.parametrize(
    ("node", "parts", "problem"),
    [
        (helper.make_node("Relu", ["x"], ["y"]), {"initializer": [external()]}, "keeps its weights in other files"),
        (helper.make_node("Constant", [], ["y"], value=external()), {}, "keeps its weights in other files"),
        (helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft"), {}, "has the operator EPContext"),
        (helper.make_node("Read", ["x"], ["y"], domain="evil"), {}, "needs operators of evil"),
    ],
    ids=["initializer", "attribute", "operator", "domain"],
)
def test_what_is_refused_however_deep(
    node: onnx.NodeProto, parts: dict[str, object], problem: str, deep: int, tmp_path: Path
) -> None:
    for _ in range(deep):
        node, parts = branch(node, **parts), {}
    with pytest.raises(OnnxModelError, match=f"{problem}.*, which is refused"):
        read_onnx(saved(tmp_path / "m.onnx", node, **parts))


def test_operators_that_could_be_used_and_are_not_are_no_harm(tmp_path: Path) -> None:
    """onnxruntime's quantiser names all that it knows."""
    path = saved(tmp_path / "m.onnx", helper.make_node("Relu", ["x"], ["y"]))
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft.experimental", 1))
    onnx.save(model, path)
    assert read_onnx(path)[0] == path.read_bytes()


def test_every_damaged_byte_and_length_is_an_error_or_nothing(run: Path, tmp_path: Path) -> None:
    """Never another exception, whatever the bytes are; a changed weight is still a model."""
    content, path = (run / "export/progressive.onnx").read_bytes(), tmp_path / "m.onnx"
    refused = 0
    for at in [*range(300), *range(300, len(content), len(content) // 300)]:
        for damaged in (content[:at], content[:at] + b"\xff" + content[at + 1 :]):
            path.write_bytes(damaged)
            try:
                read_onnx(path)
            except OnnxModelError:
                refused += 1
    assert refused > 600
