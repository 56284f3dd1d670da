"""Stages in fewer bits: what is really int8, what is handed over between stages, and what is left of the network."""

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from lcprune.errors import ExportError
from lcprune.exporters import quantize
from lcprune.exporters.progressive import file_size, stitch
from lcprune.exporters.quantize import Reduced, check_int8, int8_convolutions, reduce
from lcprune.exporters.stages import cascade_stages, export_module
from lcprune.exporters.verify import stage_logits
from lcprune.models.network import Network
from lcprune.specs import Int8Range
from lcprune_runtime.metadata import ModelInfo
from lcprune_runtime.session import ProgressiveSession, open_session

MakeInfo = Callable[..., ModelInfo]
StagesOf = Callable[..., list[onnx.ModelProto]]
ReducedOf = Callable[..., Reduced]
PlainLogits = Callable[[Sequence[onnx.ModelProto], np.ndarray], np.ndarray]

CONVOLUTIONS = {(0, 1, 2): 10, (1,): 6, (0, 2): 8}  # one in each of four groups, one and a pool in each kept critic


@pytest.fixture(scope="module")
def calibration() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (96, 3, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def reduced_of(stages_of: StagesOf, calibration: np.ndarray) -> ReducedOf:
    """The stages of `network4` for the kept exits in another precision, made once."""

    @functools.cache
    def make(precision: str, *kept: int) -> Reduced:
        return reduce(stages_of(*kept), precision, calibration)

    return make


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("kept", CONVOLUTIONS)
def test_every_convolution_is_int8_in_the_graph_that_runs(reduced_of: ReducedOf, kept: tuple[int, ...]) -> None:
    reduced = reduced_of("int8", *kept)
    assert reduced.quantization.int8_convolutions == CONVOLUTIONS[kept]
    stitched = stitch(reduced.stages, [0.5] * len(kept), "optional")
    onnx.checker.check_model(stitched, full_check=True)
    assert int8_convolutions(stitched.SerializeToString()) == CONVOLUTIONS[kept]  # it walks into the branches


def test_a_float_convolution_is_named_wherever_it_hides(reduced_of: ReducedOf, stages_of: StagesOf) -> None:
    stages = copy.deepcopy(list(reduced_of("int8", 0, 2).stages))  # others see the same
    content = stages_of(0, 2)[2].SerializeToString()
    with pytest.raises(ExportError, match="1 convolutions would not be int8: "):
        int8_convolutions(content)
    weights = [node.input[1] for node in stages[2].graph.node if node.op_type == "Conv"]
    for name in weights:  # a weight that is dequantised by hand: the pattern that onnxruntime fuses is broken
        dequantize = next(node for node in stages[2].graph.node if node.output[0] == name)
        dequantize.op_type = "Cast"
        del dequantize.input[1:], dequantize.attribute[:]
        dequantize.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    with pytest.raises(ExportError, match="1 convolutions would not be int8: stage2") as caught:
        int8_convolutions(stitch(stages, [0.5, 0.5], "none").SerializeToString())
    assert "--precision fp32 or w8" in caught.value.fix


@pytest.mark.parametrize("kept", [(0, 1, 2), (1,)])
def test_integers_are_handed_over_between_the_stages(reduced_of: ReducedOf, kept: tuple[int, ...]) -> None:
    stages = reduced_of("int8", *kept).stages
    types = [
        value.type.tensor_type.elem_type for stage in stages for value in (*stage.graph.input, *stage.graph.output)
    ]
    byte, single = TensorProto.UINT8, TensorProto.FLOAT
    assert types == [single, *[byte, single, byte] * len(kept), single]
    for stage in stages[1:]:
        assert not any(node.op_type == "QuantizeLinear" and node.input[0] == "image" for node in stage.graph.node)


def test_the_logits_stay_floating(reduced_of: ReducedOf, images: np.ndarray) -> None:
    logits = stage_logits(reduced_of("int8", 0, 1, 2).stages, images)
    assert logits.shape == (4, 33, 5)
    assert all(len(np.unique(of_exit)) > 150 for of_exit in logits)  # of 165; 256 levels would repeat


def test_a_branch_begins_and_ends_with_channels_last(reduced_of: ReducedOf) -> None:
    """Transposes at both ends of a stage are undone by those that onnxruntime puts around its integer kernels."""
    stages = reduced_of("int8", 0, 1, 2).stages
    ends = [[dim.dim_value for dim in stage.graph.output[0].type.tensor_type.shape.dim] for stage in stages]
    assert ends == [[0, 4, 4, 4], [0, 2, 2, 4], [0, 2, 2, 4], [0, 5]]
    runs = [operators(quantize._optimized(stage.SerializeToString())) for stage in stages]
    assert [ops.count("Transpose") for ops in runs] == [1, 0, 0, 0]  # of the image
    assert all("AveragePool" not in op and "QuantizeLinear" not in op for ops in runs[1:] for op in ops)


@pytest.mark.parametrize("pixel", [0, 1, 127, 254, 255])
def test_the_bytes_of_a_picture_are_read_as_they_are(reduced_of: ReducedOf, pixel: int) -> None:
    stage = copy.deepcopy(reduced_of("int8", 1).stages[0])
    assert operators(stage)[:2] == ["QuantizeLinear", "Pad"]
    del stage.graph.output[:]
    pixels_and_ones = stage.graph.node[1].output[0]
    stage.graph.output.append(helper.make_tensor_value_info(pixels_and_ones, TensorProto.UINT8, None))
    image = np.full((1, 3, 8, 8), pixel, np.uint8).astype(np.float32) / np.float32(255)
    levels = open_session(stage.SerializeToString(), "the first stage").run(None, {"image": image})[0]
    assert levels.shape == (1, 4, 8, 8)
    assert (levels[:, :3] == pixel).all()
    assert (levels[:, 3] == 255).all()


@pytest.mark.parametrize(("precision", "limit"), [("int8", 0.06), ("fp16", 0.005), ("w8", 0.02)])
def test_the_logits_are_near_those_of_float32(
    reduced_of: ReducedOf,
    stages_of: StagesOf,
    images: np.ndarray,
    plain_logits: PlainLogits,
    precision: str,
    limit: float,
) -> None:
    expected = stage_logits(stages_of(0, 1, 2), images)
    gap = np.abs(plain_logits(reduced_of(precision, 0, 1, 2).stages, images) - expected)
    assert 0 < gap.max() < limit * np.abs(expected).max() * 3
    assert gap.mean() < limit * np.abs(expected).max()


def test_images_may_be_bytes_or_fractions(stages_of: StagesOf, calibration: np.ndarray) -> None:
    of_bytes = reduce(stages_of(1), "int8", calibration)
    of_floats = reduce(stages_of(1), "int8", calibration.astype(np.float32) / 255)
    for one, other in zip(of_bytes.stages, of_floats.stages, strict=True):
        assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_int8_needs_images(stages_of: StagesOf, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="needs images"):
        reduce(stages_of(1), "int8", images[:0])


def test_the_float_stages_are_left_alone(stages_of: StagesOf, calibration: np.ndarray) -> None:
    before = [stage.SerializeToString(deterministic=True) for stage in stages_of(1)]
    for precision in ("fp16", "w8"):
        reduce(stages_of(1), precision, calibration)
    assert [stage.SerializeToString(deterministic=True) for stage in stages_of(1)] == before


@pytest.fixture(scope="module")
def wide() -> onnx.ModelProto:
    """Three convolutions of 48 channels, a pool, a linear layer: large enough for weights to outweigh names."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 48, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2), nn.Conv2d(48, 48, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(768, 5)]
        return export_module(nn.Sequential(*layers).eval(), (3, 8, 8), ("logits",))


@pytest.mark.parametrize(("precision", "share"), [("int8", 0.30), ("fp16", 0.55), ("w8", 0.30)])
def test_the_size(
    write_reduced: Callable[..., Any],
    wide: onnx.ModelProto,
    calibration: np.ndarray,
    images: np.ndarray,
    make_info: MakeInfo,
    plain_logits: PlainLogits,
    precision: str,
    share: float,
    tmp_path: Path,
) -> None:
    reduced = reduce([wide], precision, calibration)
    write_reduced(reduced, tmp_path / "m.onnx", make_info(3), images)
    assert (tmp_path / "m.onnx").stat().st_size < share * file_size([wide], make_info(3))
    got, expected = plain_logits(reduced.stages, images), stage_logits([wide], images)
    assert np.abs(got - expected).mean() < 0.05 * np.abs(expected).max()
    assert ProgressiveSession(tmp_path / "m.onnx").info.kind == "submodel"


def test_weights_of_8_bits_are_rounded_per_output_channel(wide: onnx.ModelProto) -> None:
    model = reduce([wide], "w8", np.zeros((0, 3, 8, 8))).stages[0]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in wide.graph.initializer}
    names = [name.removesuffix(".int8") for name in stored if name.endswith(".int8")]
    assert len(names) == 4
    for name in names:
        integers, scale = stored[f"{name}.int8"], stored[f"{name}.scale"]
        assert (integers.dtype, scale.shape) == (np.int8, (len(integers), *[1] * (integers.ndim - 1)))
        assert np.abs(integers).reshape(len(integers), -1).max(axis=1).tolist() == [127] * len(integers)
        assert (np.abs(integers * scale - before[name]) < 0.501 * scale + 1e-9).all()


def test_a_channel_of_zeros_stays_zero(wide: onnx.ModelProto) -> None:
    model = copy.deepcopy(wide)
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values[3] = 0
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    stage = reduce([model], "w8", np.zeros((0, 3, 8, 8))).stages[0]
    integers = next(t for t in stage.graph.initializer if t.name == f"{tensor.name}.int8")
    assert not numpy_helper.to_array(integers)[3].any()
    assert np.isfinite(stage_logits([stage], np.zeros((1, 3, 8, 8), np.float32))).all()


def test_half_precision_keeps_float32_at_both_ends(reduced_of: ReducedOf) -> None:
    for stage in reduced_of("fp16", 1).stages:
        ends = (*stage.graph.input, *stage.graph.output)
        assert {value.type.tensor_type.elem_type for value in ends} == {TensorProto.FLOAT}
        weights = [tensor for tensor in stage.graph.initializer if len(tensor.dims) > 1]
        assert {tensor.data_type for tensor in weights} == {TensorProto.FLOAT16}


def test_a_hidden_layer_that_other_nodes_read_as_floats_too(
    calibration: np.ndarray,
    images: np.ndarray,
    make_network: Callable[[int], Network],
    plain_logits: PlainLogits,
) -> None:
    """No pool between: what is handed over is the ReLU's output, which the critic reads as well."""
    network = make_network(2)
    network.groups[1] = nn.Sequential(*[layer for layer in network.groups[1] if not isinstance(layer, nn.MaxPool2d)])
    network.groups[1][-1] = nn.Linear(4 * 64, 5)
    stages, _ = cascade_stages(network, [0], images)
    reduced = reduce(stages, "int8", calibration)
    assert reduced.stages[0].graph.output[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert int8_convolutions(stitch(reduced.stages, [0.5], "none").SerializeToString()) == 4
    gap = np.abs(plain_logits(reduced.stages, images) - stage_logits(stages, images))
    assert gap.mean() < 0.1


class _Excite(nn.Module):
    """A mean over the image that scales the channels, as MobileNetV3 and EfficientNet have it."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.wide(nn.functional.silu(self.narrow(x.mean(dim=(2, 3), keepdim=True))))
        return x * nn.functional.hardsigmoid(scale)


class _Shuffle(nn.Module):
    """Half of the channels go by, and both halves are shuffled: ShuffleNet's unit."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, changed = x.chunk(2, dim=1)
        both = torch.cat((kept, self.depthwise(changed)), dim=1)
        count, channels, height, width = both.shape
        return both.view(count, 2, 8, height, width).transpose(1, 2).reshape(count, channels, height, width)


class _Dense(nn.Module):
    """What a layer makes goes beside what it reads, after a BatchNorm of its own: DenseNet's layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.grow = nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, self.grow(nn.functional.relu6(self.norm(x)))), dim=1)


class _ChannelsLast(nn.Module):
    """A LayerNorm and linear layers over the channels: ConvNeXt's block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.more, self.less = nn.LayerNorm(24), nn.Linear(24, 48), nn.Linear(48, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = self.norm(x.permute(0, 2, 3, 1))
        return x + self.less(nn.functional.gelu(self.more(last))).permute(0, 3, 1, 2)


def test_what_trunks_of_torchvision_are_made_of_runs_in_int8(
    calibration: np.ndarray,
    images: np.ndarray,
    make_network: Callable[[int], Network],
    plain_logits: PlainLogits,
) -> None:
    network = make_network(2)
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Hardswish(), _Excite(), _Shuffle()]
    head = [nn.Conv2d(24, 16, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)]
    network.groups[0] = nn.Sequential(*stem)
    network.critics[0] = nn.Sequential(nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    network.groups[1] = nn.Sequential(_Dense(), _ChannelsLast(), *head)
    stages, _ = cascade_stages(network.eval(), [0], images)
    reduced = reduce(stages, "int8", calibration)
    assert reduced.quantization.int8_convolutions == 7
    check_int8(stitch(reduced.stages, [0.5], "optional").SerializeToString(), 7)
    expected, got = (plain_logits(each, images) for each in (stages, reduced.stages))
    spread = expected.std(axis=1, keepdims=True)  # from image to image
    assert np.abs((got - expected) / spread).mean() < 0.2


class _InvertedResidual(nn.Module):
    """Expand, depthwise, project, add: MobileNetV2's block, whose ReLU6 is a Clip in ONNX."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((8, 24, 1), (24, 24, 24), (24, 8, 1))
        convolutions = [nn.Conv2d(i, o, 3 if g > 1 else 1, padding=int(g > 1), groups=g) for i, o, g in widths]
        expand, depthwise, project = convolutions
        self.layers = nn.Sequential(expand, nn.ReLU6(), depthwise, nn.ReLU6(), project)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


def test_relu6_is_part_of_the_integer_convolution(calibration: np.ndarray, images: np.ndarray) -> None:
    torch.manual_seed(0)
    blocks = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(), _InvertedResidual(), _InvertedResidual()]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    (stage,) = reduce([export_module(model, (3, 8, 8), ("logits",))], "int8", calibration).stages
    operators = [node.op_type for node in quantize._optimized(stage.SerializeToString()).graph.node]
    assert operators.count("QLinearConv") == 7
    assert "Clip" not in operators
    # The image is quantised; nothing else changes its type.
    assert (operators.count("QuantizeLinear"), operators.count("DequantizeLinear")) == (1, 0)


def test_a_network_that_is_integers_throughout_has_nothing_in_float(calibration: np.ndarray) -> None:
    """A maximum is taken of integers, too, whatever onnxruntime calls the operator."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Conv2d(16, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5))
    reduced = reduce([export_module(model.eval(), (3, 8, 8), ("logits",))], "int8", calibration)
    operators = [node.op_type for node in quantize._optimized(reduced.stages[0].SerializeToString()).graph.node]
    assert "NhwcMaxPool" in operators
    assert reduced.quantization.float_operators == {}


def test_channels_are_parted_in_integers(calibration: np.ndarray) -> None:
    """As ShuffleNet does in every block: nothing is quantised but the image."""
    torch.manual_seed(0)
    reduced = reduce([export_module(Halves().eval(), (3, 8, 8), ("logits",))], "int8", calibration)
    nodes = quantize._optimized(reduced.stages[0].SerializeToString()).graph.node
    operators = [node.op_type for node in nodes]
    assert "Split" in operators
    assert (operators.count("QuantizeLinear"), operators.count("DequantizeLinear")) == (1, 0)


class Halves(nn.Module):
    """Half of the channels go through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16, 5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits, ``(N, 5)``."""
        kept, changed = self.first(image).relu().chunk(2, dim=1)
        logits: torch.Tensor = self.last(torch.cat([kept, self.second(changed).relu()], dim=1))
        return logits


def test_a_row_is_the_same_in_a_batch_of_any_size(calibration: np.ndarray, images: np.ndarray) -> None:
    """Squeeze-and-excitation is partly in float between integers: its sums must not depend on the batch."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.Hardswish(), _Excite(), nn.Conv2d(16, 16, 3, padding=1), _Excite()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()
    reduced = reduce([export_module(model, (3, 8, 8), ("logits",))], "int8", calibration)
    assert set(reduced.quantization.float_operators) == {"HardSigmoid", "Mul", "Sigmoid"}
    session = open_session(reduced.stages[0].SerializeToString(), "a stage")
    pixels = images.astype(np.float32) / np.float32(255)
    whole = session.run(None, {"image": pixels})[0]
    for row in range(len(pixels)):
        assert np.array_equal(session.run(None, {"image": pixels[row : row + 1]})[0], whole[row : row + 1])


@pytest.mark.parametrize(("int8_range", "largest"), [("safe", 64), ("full", 127)])
def test_the_safe_range_has_weights_of_7_bits(
    stages_of: StagesOf, calibration: np.ndarray, images: np.ndarray, int8_range: Int8Range, largest: int
) -> None:
    reduced = reduce(stages_of(1), "int8", calibration, int8_range)
    assert reduced.quantization.int8_range == int8_range
    tensors = [tensor for stage in reduced.stages for tensor in stage.graph.initializer]
    weights = [numpy_helper.to_array(t) for t in tensors if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
    assert {int(np.abs(weight.astype(int)).max()) for weight in weights} == {largest}


def test_the_safe_range_is_the_same_whether_or_not_the_processor_would_overflow() -> None:
    """255 x 64 twice is the largest sum of two products; the session option makes x86 without VNNI exact."""
    model = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.Flatten(), nn.Linear(16, 2)).eval()
    nn.init.constant_(model[0].weight, 1.0)
    white = np.full((8, 4, 2, 2), 255, np.uint8)
    (stage,) = reduce([export_module(model, (4, 2, 2), ("logits",))], "int8", white).stages
    logits = []
    for exact in ("0", "1"):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", exact)
        session = onnxruntime.InferenceSession(stage.SerializeToString(), options)
        logits.append(session.run(None, {"image": white / np.float32(255)})[0])
    np.testing.assert_array_equal(*logits)


def test_stages_run_over_no_images(stages_of: StagesOf, images: np.ndarray) -> None:
    assert stage_logits(stages_of(1), images[:0]).shape == (2, 0, 5)


def test_a_graph_that_ends_its_process_is_refused_and_ours_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "_OPEN", "import os; os.abort()")
    with pytest.raises(ExportError, match=r"^onnxruntime .* dies of this graph in int8 \(signal 6\)"):
        quantize.check_int8(b"", 1)


def test_numbers_that_half_precision_cannot_hold_are_refused(images: np.ndarray) -> None:
    """A GPU would make infinity and then NaN of them; on this CPU, which computes in float32, nothing shows."""
    grey = images[:, :1]
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.Linear(2, 3)).requires_grad_(False)
    for layer in network[1:]:
        layer.weight.fill_(1.0)
        layer.bias.zero_()
    largest = float((grey / 255).sum((1, 2, 3)).max()) * 2  # of the logits: two equal numbers added
    network[1].weight.mul_(65_504 / largest * 0.99)
    stages = [export_module(network, (1, 8, 8), ("logits",))]
    assert reduce(stages, "fp16", grey).quantization.precision == "fp16"
    network[1].weight.mul_(1.02)
    stages = [export_module(network, (1, 8, 8), ("logits",))]
    with pytest.raises(ExportError, match=r"fp16 ends at 65,504, and numbers inside this network reach 66,") as error:
        reduce(stages, "fp16", grey)
    assert error.value.fix == "export with --precision fp32 or w8"
    reduce(stages, "w8", grey)
