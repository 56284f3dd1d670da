from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from lcprune.errors import ExportError
from lcprune.exporters.stages import OPSET, export_module
from lcprune_runtime.session import open_session

StagesOf = Callable[..., list[onnx.ModelProto]]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_stages_have_named_ends_a_dynamic_batch_and_no_traces(stages_of: StagesOf) -> None:
    stages = stages_of(0, 2)
    assert [[output.name for output in stage.graph.output] for stage in stages] == [
        ["hidden", "logits"],
        ["hidden", "logits"],
        ["logits"],
    ]
    for stage in stages:
        assert [entry.version for entry in stage.opset_import if entry.domain == ""] == [OPSET]
        assert all(end.type.tensor_type.shape.dim[0].dim_param == "batch" for end in stage.graph.input)
        assert not stage.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in stage.graph.node)
        assert not {"Reshape", "BatchNormalization"} & {node.op_type for node in stage.graph.node}
        onnx.checker.check_model(stage, full_check=True)


def test_a_pool_at_the_head_of_the_next_group_moves_before_the_exit(stages_of: StagesOf) -> None:
    first, rest = stages_of(1)
    hidden = next(output for output in first.graph.output if output.name == "hidden")
    assert [dim.dim_value for dim in hidden.type.tensor_type.shape.dim[1:]] == [4, 2, 2]  # 4x4 pooled
    pools = [[node.op_type for node in model.graph.node].count("MaxPool") for model in (first, rest)]
    assert pools == [2, 0]


def test_what_torch_cannot_export_is_an_export_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match="cannot export"):
        export_module(Branching().eval(), (1, 4, 4), ("logits",))
    assert capfd.readouterr().out == ""


class Shadowing(nn.Module):
    """A layer by the name of a method, which torch refuses: one could search for long."""

    def __init__(self) -> None:
        super().__init__()
        self.half = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.half(x)


def test_the_reason_is_named_and_not_how_to_report_it() -> None:
    with pytest.raises(ExportError, match=r"to ONNX: submodule `half`: ") as caught:
        export_module(Shadowing().eval(), (4,), ("logits",))
    assert "step 1/3" not in caught.value.problem


class Reshaped(nn.Module):
    """Reads its image in another shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], *self.shape).flatten(1) if self.shape else x.view(-1, 2).view(x.shape[0], -1)


@pytest.mark.parametrize("shape", [(8,), (4, 2), ()])
def test_a_batch_may_have_any_size_where_shapes_are_written_by_it(shape: tuple[int, ...]) -> None:
    model = export_module(nn.Sequential(Reshaped(*shape), nn.Linear(8, 2)).eval(), (2, 2, 2), ("logits",))
    session = open_session(model.SerializeToString(), "a model")
    for batch in (1, 3, 9):
        assert session.run(None, {"image": np.zeros((batch, 2, 2, 2), np.float32)})[0].shape == (batch, 2)


def test_export_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    export_module(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval(), (1, 2, 2), ("logits",))
    assert capfd.readouterr().out == ""
