"""Stages of a network in fewer bits: int8 throughout, float16, or int8 weights alone. Needs no torch.

Quantisers silently skip the branches of a progressive model. So for int8 the stages are
joined to one graph without decisions, which is quantised as any network is and cut again where it was joined: between
int8 stages the hidden layer stays uint8. The first one begins with the 256 levels that the pixels of a picture have,
and its normalisation is in the weights.
"""

import contextlib
import copy
import io
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.utils
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnxruntime import quantization as tool
from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer

from lcprune.errors import ExportError
from lcprune.exporters import rewrite
from lcprune.exporters.bias_correction import correct_biases
from lcprune.exporters.float_precisions import Stages, like, refuse_overflow, to_fp16, to_w8
from lcprune.exporters.graphs import rename, subgraphs
from lcprune.exporters.parts import inline, reads_image
from lcprune.exporters.shared_weights import unify
from lcprune.specs import Int8Range
from lcprune_runtime.progress import tracked
from lcprune_runtime.session import Floats, open_session, to_float

Reduction = Literal["int8", "fp16", "w8"]
"""``w8``: weights of 8 bits in the file, float32 in memory and in every computation."""

LARGEST_WEIGHT: dict[Int8Range, int] = {"safe": 64, "full": 127}
"""Largest integer that stands for a weight."""
QUANTIZED_OPS = (
    *("Conv", "Gemm", "MatMul", "Add", "Concat", "Split", "Relu", "Clip"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Transpose"),
)
_LEVELS = {"scale": np.array(1 / 255, np.float32), "zero_point": np.array(0, np.uint8)}
"""Of pixels in 0..1, as the bytes that they were read from."""
_MOVES_NUMBERS = frozenset(
    (
        "DequantizeLinear",
        "Transpose",
        "Pad",
        "Flatten",
        "Reshape",
        "Split",
        "Squeeze",
        "Identity",
        "MaxPool",
        "NhwcMaxPool",
    )
)
"""Operators that take next to no time, or the same in integers as in float."""
_FLOAT_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose")  # in any domain of onnxruntime's
_OPEN = "import sys, onnxruntime as o; o.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
_CHUNK = 64  # images that are computed together


@dataclass(frozen=True)
class Quantization:
    """What was done to the numbers of a file: ``lcprune.quantization`` in its metadata, as JSON."""

    precision: Reduction
    method: str | None = None
    """How the ranges of activations were found, as onnxruntime calls it; None where they stay floating."""
    samples: int = 0
    """Training images that the ranges were found on."""
    int8_convolutions: int = 0
    """Convolutions that onnxruntime computes in integers: all of the file's, average pools among them, or none."""
    int8_range: Int8Range | None = None
    float_operators: dict[str, int] = field(default_factory=dict)
    """In an int8 file, what onnxruntime computes in float between integers: how many of each operator."""
    agreement_pct: dict[str, float] | None = None
    """For that method, images with the class that float32 gives, over all exits; None: there were none to compare."""

    def as_json(self) -> dict[str, Any]:
        """As in the metadata."""
        return asdict(self)


@dataclass(frozen=True)
class Reduced:
    """Stages in fewer bits."""

    stages: tuple[ModelProto, ...]
    quantization: Quantization


def reduce(
    stages: Stages,
    precision: Reduction,
    images: NDArray[np.generic],
    int8_range: Int8Range = "safe",
) -> Reduced:
    """`stages` in another precision; inputs and outputs of the first and the last stay float32.

    Args:
        stages: As `stages.export_stages` makes them; left as they are.
        precision: See `Reduction`.
        images: Training images for the ranges of int8 activations, whose numbers have to fit into fp16,
            ``(N, C, H, W)``.
        int8_range: Of int8 weights.

    Raises:
        ExportError: If a convolution is not computed in integers though int8 was asked for, or `images` make
            numbers that are too large for fp16.
        ValueError: If int8 is asked for without images.
    """
    if precision == "int8":
        return _to_int8(stages, images, int8_range)
    if precision == "fp16":
        refuse_overflow(stages, images[:_CHUNK])
    convert = to_fp16 if precision == "fp16" else to_w8
    return Reduced(tuple(convert(stage) for stage in stages), Quantization(precision))


def int8_convolutions(content: bytes) -> int:
    """How many convolutions onnxruntime computes in integers, once it has optimised a model.

    Raises:
        ExportError: If there is a convolution that it does not; all of them are named.
    """
    return _operators(content)["QLinearConv"]


def _operators(content: bytes) -> Counter[str]:
    """How many nodes of each operator onnxruntime runs; refused as `int8_convolutions` says."""
    nodes = [node for graph in subgraphs(_optimized(content).graph) for node in graph.node]
    if floating := [node.name or node.output[0] for node in nodes if node.op_type in _FLOAT_CONVOLUTIONS]:
        raise ExportError(
            f"{len(floating)} convolutions would not be int8: {', '.join(floating)}",
            "export with --precision fp32 or w8, and report this, with the recipe",
        )
    return Counter(node.op_type for node in nodes)


def check_int8(content: bytes, expected: int) -> None:
    """Refuses a model that has other than `expected` int8 convolutions.

    Raises:
        ExportError: If one is floating or absent, or onnxruntime dies of the model.
    """
    _refuse_what_kills_onnxruntime(content)
    if (count := int8_convolutions(content)) != expected:
        raise ExportError(
            f"{count} of {expected} convolutions are int8 in the graph that onnxruntime runs",
            "export with --precision fp32 or w8, and report this, with the recipe",
        )


def _refuse_what_kills_onnxruntime(content: bytes) -> None:
    """Opens a model in a process of its own: onnxruntime aborts on some integer graphs with branches."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        child = subprocess.run([sys.executable, "-c", _OPEN, str(path)], capture_output=True, check=False)
    if child.returncode < 0:
        raise ExportError(
            f"onnxruntime {onnxruntime.__version__} dies of this graph in int8 (signal {-child.returncode})",
            "export with --precision fp32, fp16 or w8, or a sub-model alone: --exit K without --progressive",
        )


def _to_int8(stages: Stages, images: NDArray[np.generic], int8_range: Int8Range) -> Reduced:
    if not len(images):
        raise ValueError("int8 needs images to calibrate on")
    stages, pixels = [copy.deepcopy(stage) for stage in stages], to_float(images)
    from_image = [k for k in range(len(stages)) if reads_image(stages, k)]
    reductions = {k: rewrite.split_reduction(stages[k]) for k in from_image}
    read = {_image(k): _reduced(reductions[k], pixels) for k in from_image}
    for k in from_image:
        dims = stages[k].graph.input[0].type.tensor_type.shape.dim
        for dim, size in zip(dims[2:], read[_image(k)].shape[2:], strict=True):
            dim.dim_value = size
    for stage in stages:
        rewrite.means_as_pools(stage)
        rewrite.pools_as_convolutions(stage)
        rewrite.flatten_channels_last(stage)
    levels = [k for k in from_image if rewrite.fold_normalization(stages[k])]
    read |= {_image(k): rewrite.with_ones(read[_image(k)]) for k in levels}
    whole = _joined(stages)
    ranges = _ranges(whole, read)
    correct_biases(whole, {name: of[:_CHUNK] for name, of in read.items()}, LARGEST_WEIGHT[int8_range])
    in_integers = _quantized(whole, ranges, [_image(k) for k in levels], int8_range)
    unify(in_integers.graph)
    quantized = _cut(in_integers, stages)
    for k in levels:
        _take_pixels(quantized[k].graph, images.shape[1])
    for k, reduction in reductions.items():
        if reduction is not None:
            rewrite.prepend(reduction, quantized[k])
    convolutions = sum(node.op_type == "Conv" for stage in stages for node in stage.graph.node)
    operators = sum((_operators(stage.SerializeToString()) for stage in quantized), Counter[str]())
    counted = operators["QLinearConv"]
    if counted != convolutions:
        raise ExportError(
            f"{counted} of {convolutions} convolutions are int8", "export with --precision fp32 or w8, and report this"
        )
    floating = {name: n for name, n in operators.most_common() if name[0] != "Q" and name not in _MOVES_NUMBERS}
    return Reduced(tuple(quantized), Quantization("int8", "min-max", len(images), counted, int8_range, floating))


def _image(k: int) -> str:
    """Name of the image that stage `k` reads, in `_joined`."""
    return f"image.{k}"


def _reduced(reduction: ModelProto | None, images: Floats) -> Floats:
    """What a stage reads of images ``(N, C, H, W)``."""
    if reduction is None:
        return images
    smaller: Floats = open_session(reduction.SerializeToString(), "reduction").run(None, {"image": images})[0]
    return smaller


def _joined(stages: Stages) -> ModelProto:
    """All stages as one graph without decisions, with the outputs ``logits.0`` and on."""
    nodes: list[NodeProto] = []
    initializers: list[TensorProto] = []
    inputs, outputs, hidden = [], [], ""
    for k, stage in enumerate(stages):
        if reads_image(stages, k):
            hidden = _image(k)
            inputs.append(copy.deepcopy(stage.graph.input[0]))
            inputs[-1].name = hidden
        ends = [f"hidden.{k + 1}", f"logits.{k}"][-len(stage.graph.output) :]
        part, weights = inline(stage, f"stage{k}.", hidden, ends)
        nodes += part
        initializers += weights
        hidden = ends[0]
        outputs.append(copy.deepcopy(stage.graph.output[-1]))
        outputs[-1].name = f"logits.{k}"
    graph = helper.make_graph(nodes, stages[0].graph.name, inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=stages[0].opset_import, ir_version=stages[0].ir_version)


def _ranges(model: ModelProto, images: Mapping[str, Floats]) -> Any:
    """Smallest and largest value of every activation, as the quantiser wants them."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = tool.create_calibrator(path, list(QUANTIZED_OPS), f"{folder}/augmented.onnx")
        calibrator.collect_data(_Batches(images))
        return calibrator.compute_data()


class _Batches(tool.CalibrationDataReader):  # type: ignore[misc]
    """Images, by the name of the input, in the form that a calibrator reads."""

    def __init__(self, images: Mapping[str, Floats]) -> None:
        starts = range(0, len(next(iter(images.values()))), _CHUNK)
        batches = [{name: of[start : start + _CHUNK] for name, of in images.items()} for start in starts]
        self._batches = iter(tracked(batches, "calibrating int8"))

    def get_next(self) -> dict[str, Floats] | None:
        return next(self._batches, None)


def _quantized(model: ModelProto, ranges: Any, levels: Sequence[str], int8_range: Int8Range) -> ModelProto:
    """QDQ: uint8 activations and int8 weights per channel, which is what the kernels for CPUs are made for."""
    options: dict[str, Any] = {"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]}  # 256 levels of logits tie
    if levels:
        of_pixels = {**_LEVELS, "quant_type": tool.QuantType.QUInt8}
        options["TensorQuantOverrides"] = {image: [dict(of_pixels)] for image in levels}
    quantizer = tool.QDQQuantizer(
        save_and_reload_model_with_shape_infer(model),
        per_channel=True,
        reduce_range=int8_range == "safe",
        weight_qType=tool.QuantType.QInt8,
        activation_qType=tool.QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=list(QUANTIZED_OPS),
        extra_options=options,
    )
    quantizer.quantize_model()
    return like(quantizer.model.model, model)


def _cut(model: ModelProto, stages: Stages) -> list[ModelProto]:
    """The stages of a quantised `_joined`: the hidden layer between two of them is handed over as the integers.

    Images go ``(N, H, W, C)``: so the kernels want them, and a branch begins without a transpose.
    """
    integers = {n.input[0]: n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    hidden = [integers.get(f"hidden.{k}", f"hidden.{k}") for k in range(len(stages) + 1)]
    extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model))
    parts = []
    for k, stage in enumerate(stages):
        entrance = _image(k) if reads_image(stages, k) else hidden[k]
        exits = [] if reads_image(stages, k + 1) else [hidden[k + 1]]
        part = like(extractor.extract_model([entrance], [*exits, f"logits.{k}"]), stage)
        rename(part.graph, {entrance: "image", f"logits.{k}": "logits"} | dict.fromkeys(exits, "hidden"))
        if part.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8:
            _channels_last(part.graph, part.graph.input[0])
        if exits and part.graph.output[0].type.tensor_type.elem_type == TensorProto.UINT8:
            _channels_last(part.graph, part.graph.output[0])
        parts.append(part)
    return parts


def _channels_last(graph: GraphProto, value: ValueInfoProto) -> None:
    """Makes an input or output ``(N, C, H, W)`` of a graph one of ``(N, H, W, C)``; any other shape stays."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) != 4:
        return
    order = [copy.deepcopy(dims[axis]) for axis in rewrite.CHANNELS_LAST]
    del dims[:]
    dims.extend(order)
    name, inner = value.name, f"{value.name}.first"
    is_input = value.name == graph.input[0].name
    for node in graph.node:
        node.input[:] = [inner if each == name else each for each in node.input]
        node.output[:] = [inner if each == name else each for each in node.output]
    if is_input:
        graph.node.insert(0, helper.make_node("Transpose", [name], [inner], inner, perm=rewrite.CHANNELS_FIRST))
    else:
        graph.node.append(helper.make_node("Transpose", [inner], [name], name, perm=rewrite.CHANNELS_LAST))


def _take_pixels(graph: GraphProto, channels: int) -> None:
    """Lets the input ``image`` be pixels alone: the channels of ones are appended to the bytes that they become."""
    quantize = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "image")
    pads = np.zeros(8, np.int64)
    pads[5] = rewrite.padded_channels(channels) - channels  # behind the channels
    inputs, padded = ["image.bytes", "image.pads", "image.one"], quantize.output[0]
    quantize.output[0] = inputs[0]
    graph.node.insert(list(graph.node).index(quantize) + 1, helper.make_node("Pad", inputs, [padded], padded))
    graph.initializer.append(numpy_helper.from_array(pads, inputs[1]))
    graph.initializer.append(numpy_helper.from_array(np.array(255, np.uint8), inputs[2]))
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = channels


def _optimized(content: bytes) -> ModelProto:
    """The graph that onnxruntime makes of a model on this machine."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)
