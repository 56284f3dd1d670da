import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lcprune.errors import ExportError, ParityError
from lcprune.exporters import stages as exporter
from lcprune.exporters.progressive import file_size, stitch, write_network
from lcprune.exporters.stages import cascade_stages, cpu_copy, export_stages
from lcprune.exporters.verify import stage_logits
from lcprune.models.network import Network
from lcprune_runtime.metadata import ModelInfo
from lcprune_runtime.session import ProgressiveSession

MakeInfo = Callable[..., ModelInfo]
StagesOf = Callable[..., list[onnx.ModelProto]]


def torch_all(network: Network, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.stack(cpu_copy(network)(torch.from_numpy(images))).numpy()


def leave_row_by_row(
    logits: np.ndarray, images: np.ndarray, thresholds: list[float], kept: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The definition, one row and one exit at a time: logits ``(N, classes)`` and the exit among `kept` and main."""
    rows, exits = [], []
    for n in range(logits.shape[1]):
        chosen = len(kept)
        for position, exit_index in enumerate(kept):
            row = logits[exit_index, n].astype(np.float64)
            confidence = (np.exp(row - row.max()) / np.exp(row - row.max()).sum()).max()
            if np.isfinite(images[n]).all() and confidence >= thresholds[position]:
                chosen = position
                break
        exits.append(chosen)
        rows.append(logits[[*kept, logits.shape[0] - 1][chosen], n])
    return np.array(rows).reshape(-1, logits.shape[-1]), np.array(exits, dtype=np.int64)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kept", [[0, 1, 2], [1], [0, 2]])
def test_every_row_leaves_by_itself_at_any_batch_size(network4: Network, stages_of: StagesOf, kept: list[int]) -> None:
    session = session_of(stitch(stages_of(*kept), [0.5] * len(kept), "required"))
    rng = np.random.default_rng(len(kept))
    seen = set()
    for batch in (0, 1, 1, 1, 7, 33, 33):
        images = rng.random((batch, 3, 8, 8), dtype=np.float32)
        thresholds = rng.uniform(0.4, 0.9, len(kept)).astype(np.float32)
        logits, exits = session.run(None, {"image": images, "threshold": thresholds})
        expected_logits, expected_exits = leave_row_by_row(torch_all(network4, images), images, thresholds, kept)
        assert exits.dtype == np.int64
        assert exits.tolist() == expected_exits.tolist()
        assert logits.shape == (batch, 5)
        np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-5)
        seen |= set(exits.tolist())
    assert seen == set(range(len(kept) + 1))  # the test means something only if every exit was taken


@pytest.mark.parametrize("pixel", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch", [1, 33])
def test_a_row_with_a_pixel_that_is_not_finite_never_leaves_early(exported: Path, pixel: float, batch: int) -> None:
    images = np.random.default_rng(2).random((batch, 3, 8, 8), dtype=np.float32)
    images[batch // 2, 1, 7, 3] = pixel
    exits = ProgressiveSession(exported)(images, [0.0, 0.0, 0.0]).exit_indices
    assert exits.tolist() == [3 if n == batch // 2 else 0 for n in range(batch)]


def test_a_confidence_that_is_not_a_number_does_not_leave(make_network: Callable[[int], Network]) -> None:
    network = make_network(2)
    network.critics[0][-1].bias.data[2] = torch.inf
    session = session_of(stitch(export_stages(cpu_copy(network), [0], (3, 8, 8)), [0.0], "none"))
    exits = session.run(["exit_index"], {"image": np.zeros((3, 3, 8, 8), np.float32)})[0]
    assert exits.tolist() == [1, 1, 1]


def test_a_threshold_met_exactly_leaves(make_network: Callable[[int], Network]) -> None:
    network = make_network(2)
    head = network.critics[0][-1]
    head.weight.data.zero_()
    head.bias.data.copy_(torch.tensor([0.0, 0.0, -torch.inf, -torch.inf, -torch.inf]))  # exactly one half
    session = session_of(stitch(export_stages(cpu_copy(network), [0], (3, 8, 8)), [0.5], "optional"))
    feed = {"image": np.zeros((2, 3, 8, 8), np.float32)}
    above = np.nextafter(np.float32([0.5]), np.float32(1))
    assert session.run(["exit_index"], feed)[0].tolist() == [0, 0]
    assert session.run(["exit_index"], {**feed, "threshold": above})[0].tolist() == [1, 1]


@pytest.mark.usefixtures("quick_export")
def test_threshold_inputs(network4: Network, images: np.ndarray, make_info: MakeInfo, tmp_path: Path) -> None:
    results = {}
    for kind in ("optional", "required", "none"):
        path = tmp_path / f"{kind}.onnx"
        write_network(network4, [0, 2], path, make_info(0, 2, 3, thresholds=[0.6, 0.7]), images, kind)
        session = ProgressiveSession(path)
        assert [entry.name for entry in session.runtime.get_inputs()] == (
            ["image", "threshold"] if kind == "required" else ["image"]
        )
        assert [entry.name for entry in session.runtime.get_overridable_initializers()] == (
            ["threshold"] if kind == "optional" else []
        )
        assert session.takes_thresholds == (kind != "none")
        assert session.info.thresholds == (0.6, 0.7)
        results[kind] = session(images.astype(np.float32) / 255)
    for kind in ("required", "none"):
        np.testing.assert_array_equal(results[kind].exit_indices, results["optional"].exit_indices)
        np.testing.assert_array_equal(results[kind].logits, results["optional"].logits)


@pytest.mark.usefixtures("quick_export")
def test_criterion_and_temperatures_are_those_of_the_metadata(
    network4: Network, images: np.ndarray, make_info: MakeInfo, tmp_path: Path
) -> None:
    path, given = tmp_path / "model.onnx", {"criterion": "margin", "temperatures": (0.5, 3.0, 1.0)}
    write_network(
        network4, [0, 2], path, dataclasses.replace(make_info(0, 2, 3), **given, thresholds=tuple([0.5, 0.5])), images
    )
    session = ProgressiveSession(path)
    assert (session.info.criterion, session.info.temperatures) == ("margin", (0.5, 3.0, 1.0))
    logits = torch_all(network4, images.astype(np.float32) / 255)[[0, 2]] / np.array([0.5, 3.0])[:, None, None]
    probabilities = np.sort(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), axis=-1)
    leaves = probabilities[..., -1] - probabilities[..., -2] >= 0.5
    assert session(images).exit_indices.tolist() == np.argmax([*leaves, np.ones(len(images))], axis=0).tolist()


def test_weights_lie_inside_the_branches_and_dropped_critics_are_gone(stages_of: StagesOf) -> None:
    model = stitch(stages_of(1), [0.5], "optional")
    onnx.checker.check_model(model, full_check=True)
    branch_nodes = [node for node in model.graph.node if node.op_type == "If"]
    assert len(branch_nodes) == 1
    then = next(entry.g for entry in branch_nodes[0].attribute if entry.name == "then_branch")
    outer = [node.op_type for node in model.graph.node]
    inner = [node.op_type for node in then.node]
    assert (outer.count("Conv"), inner.count("Conv")) == (3, 2)  # groups 1, 2 and critic 2; groups 3 and 4
    assert sum(tensor.name.endswith("weight") for tensor in then.initializer) == 3  # and the linear layer
    assert not {"BatchNormalization", "Reshape"} & {*outer, *inner}
    stage = stages_of(1)[0]
    assert (model.producer_name, model.graph.name, model.ir_version) == ("lcprune", "lcprune", stage.ir_version)
    assert list(model.opset_import) == list(stage.opset_import)


@pytest.fixture
def exported_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every export is one of torch's, not one that `exported_once` has kept."""
    monkeypatch.setattr(exporter, "_export_any_batch", exporter._export_any_batch.__wrapped__)


@pytest.mark.usefixtures("exported_anew")
def test_the_same_weights_give_the_same_bytes(
    network4: Network, images: np.ndarray, make_info: MakeInfo, tmp_path: Path
) -> None:
    for name in ("a.onnx", "b.onnx"):
        write_network(network4, [1], tmp_path / name, make_info(1, 3, thresholds=[0.5]), images)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_nothing_about_this_machine_is_in_the_file(exported: Path) -> None:
    content = exported.read_bytes()
    for trace in (str(Path.cwd()), str(Path.home()), "site-packages", ".py", "stack_trace", "torch"):
        assert trace.encode() not in content


@pytest.mark.parametrize("k", [2, 4])
def test_a_submodel(
    network4: Network, images: np.ndarray, make_info: MakeInfo, torch_logits: np.ndarray, tmp_path: Path, k: int
) -> None:
    path = tmp_path / "sub.onnx"
    parity = write_network(network4.truncated(k), (), path, make_info(k - 1), np.tile(images, (3, 1, 1, 1)))
    assert (parity.samples, parity.exits_agree, parity.near_threshold) == (99, True, 0)
    session = ProgressiveSession(path)
    assert [output.name for output in session.runtime.get_outputs()] == ["logits"]
    prediction = session(images.astype(np.float32) / 255)
    np.testing.assert_allclose(prediction.logits, torch_logits[k - 1], rtol=1e-4, atol=1e-5)
    assert session.info.kind == "submodel"
    for batch in (0, 1):
        assert session(np.zeros((batch, 3, 8, 8), np.float32)).logits.shape == (batch, 5)


@pytest.mark.usefixtures("exported_anew")
def test_the_network_is_left_as_it_was(
    make_network: Callable[[int], Network], images: np.ndarray, make_info: MakeInfo, tmp_path: Path
) -> None:
    network = make_network(2).to(memory_format=torch.channels_last)
    network.train()
    network.critics[0].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    layers = [type(module) for module in network.modules()]
    write_network(network, [0], tmp_path / "x.onnx", make_info(0, 1, thresholds=[0.5]), images)
    assert [module.training for module in network.modules()] == modes
    assert [type(module) for module in network.modules()] == layers
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def with_a_wrong_bias(stages: list[onnx.ModelProto]) -> list[onnx.ModelProto]:
    """A copy in which main's last bias is off."""
    wrong = copy.deepcopy(stages)
    tensor = next(tensor for tensor in wrong[-1].graph.initializer if list(tensor.dims) == [5])
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(0.01), tensor.name))
    return wrong


def test_a_wrong_weight_leaves_no_file_and_the_older_one_as_it_was(
    network4: Network,
    stages_of: StagesOf,
    images: np.ndarray,
    make_info: MakeInfo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = with_a_wrong_bias(stages_of(0, 2))
    monkeypatch.setattr(exporter, "export_stages", lambda *arguments: stages)
    older = tmp_path / "older.onnx"
    older.write_bytes(b"older")
    for path in (older, tmp_path / "new.onnx"):
        for kind in ("optional", "none"):  # with thresholds of 0 no image reaches the fault by itself
            with pytest.raises(ExportError, match="differs from torch"):
                write_network(network4, [0, 2], path, make_info(0, 2, 3, thresholds=[0.0, 0.0]), images, kind)
    assert [entry.name for entry in tmp_path.iterdir()] == ["older.onnx"]
    assert older.read_bytes() == b"older"


def test_stages_are_held_against_torch_before_anything_is_made_of_them(
    make_network: Callable[[int], Network],
    images: np.ndarray,
    make_info: MakeInfo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = make_network(3)
    expected = torch_all(network, images.astype(np.float32) / 255)
    (stages, _), ([alone], _) = (cascade_stages(*cut, images) for cut in ((network, [0]), (network.truncated(2), ())))
    assert network.training  # left as it was
    np.testing.assert_allclose(stage_logits(stages, images), expected[[0, 2]], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stage_logits([alone], images), expected[[1]], rtol=1e-4, atol=1e-5)
    assert [value.name for value in alone.graph.output] == ["logits"]

    path, info = tmp_path / "wrong.onnx", make_info(1)
    monkeypatch.setattr(
        exporter, "export_stages", lambda _, kept, shape: with_a_wrong_bias(stages if kept else [alone])
    )
    for export in (
        lambda: cascade_stages(network, [0], images),
        lambda: cascade_stages(network.truncated(2), (), images),
        lambda: write_network(network.truncated(2), (), path, info, images),
    ):
        with pytest.raises(ParityError, match="differs? from torch"):
            export()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick_export")
def test_the_size_of_a_file_that_is_not_written(
    network4: Network, stages_of: StagesOf, images: np.ndarray, make_info: MakeInfo, tmp_path: Path
) -> None:
    written = tmp_path / "model.onnx"
    write_network(network4, [0, 2], written, make_info(0, 2, 3, thresholds=[0.6, 0.75]), images)
    assert file_size(stages_of(0, 2), make_info(0, 2, 3, thresholds=[0.6, 0.75])) == written.stat().st_size
    write_network(network4.truncated(1), (), written, make_info(0), images)
    assert file_size(cascade_stages(network4.truncated(1), (), images)[0], make_info(0)) == written.stat().st_size


def test_a_place_that_cannot_be_written(
    network4: Network, images: np.ndarray, make_info: MakeInfo, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.onnx").mkdir()
    for path in (tmp_path / "file" / "model.onnx", tmp_path / "folder.onnx"):
        with pytest.raises(ExportError, match="cannot be written"):
            write_network(network4.truncated(1), (), path, make_info(0), images)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.onnx"]


def test_slips_of_the_caller(network4: Network, images: np.ndarray, make_info: MakeInfo, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    with pytest.raises(ValueError, match="ascending"):
        write_network(network4, [1, 0], path, make_info(0, 1, 3, thresholds=[0.5, 0.5]), images)
    with pytest.raises(ValueError, match="ascending"):
        write_network(network4, [3], path, make_info(0, 3, thresholds=[0.5]), images)
    with pytest.raises(ValueError, match="describes 2 exits and 2 thresholds, the file has 2 exits"):
        write_network(network4, [0], path, make_info(0, 3, thresholds=[0.5, 0.5]), images)
    with pytest.raises(ValueError, match="describes 4 exits"):
        write_network(network4, [0], path, make_info(0, 1, 2, 3, thresholds=[0.5]), images)
    wrong = dataclasses.replace(make_info(0, 3, thresholds=[0.5]), exit_macs=(1,))
    with pytest.raises(ValueError, match="describes 2 exits"):
        write_network(network4, [0], path, wrong, images)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_is_no_valid_onnx_is_refused(
    make_network: Callable[[int], Network],
    images: np.ndarray,
    make_info: MakeInfo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where only its shapes contradict one another, which the quick check does not see."""
    network = make_network(2)
    [model], _ = cascade_stages(network.truncated(1), (), images)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4  # of 5 classes
    monkeypatch.setattr(exporter, "export_stages", lambda *arguments: [model])
    with pytest.raises(
        ExportError, match="^the exported graph is not valid ONNX: .*\n  fix: report this, with the recipe$"
    ) as told:
        write_network(network.truncated(1), (), tmp_path / "model.onnx", make_info(0), images)
    assert "Inferred shape and existing shape differ" in str(told.value)
    assert not list(tmp_path.iterdir())


def alone(module: torch.nn.Module) -> Network:
    """A network of one group."""
    return Network(torch.nn.Identity(), [module], [])


class OnlyFloat32(torch.nn.Module):
    """As code is that casts to float32."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.linear(image.flatten(1).float())


def test_where_nobody_knows_how_exact_torch_is_the_difference_is_all_that_is_said() -> None:
    error = ParityError("it differs", "report this")
    images = np.zeros((2, 1, 8, 8), np.float32)
    with pytest.raises(ParityError) as told, exporter._rounding_named(alone(OnlyFloat32()), images):
        raise error
    assert told.value is error


def test_a_network_that_float32_cannot_say_is_named() -> None:
    """Sums of large numbers that cancel: torch itself is far off, and more training is the way out."""
    images = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    smooth = np.repeat(images[:, :, :, ::2], 2, axis=3)  # neighbours are the same, and cancel
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    error = ParityError("it differs", "report this")
    with pytest.raises(ParityError) as told, exporter._rounding_named(alone(plain), smooth):
        raise error
    assert told.value is error
    with torch.no_grad():
        plain[1].weight.copy_(1e6 * torch.tensor([1.0, -1.0]).repeat(32) * torch.ones(3, 1))
        plain[1].weight[:, ::2] += 1
    said = pytest.raises(ParityError, match=r"^it differs; torch itself is [0-9e-]+ of .*\n  fix: train it longer")
    with said, exporter._rounding_named(alone(plain), smooth):
        raise error
