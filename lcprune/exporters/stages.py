"""From torch to ONNX: parts of a network as clean, self-contained models."""

import contextlib
import copy
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx.utils
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from lcprune.errors import ExportError, ParityError
from lcprune.exits import group_spans
from lcprune.exporters.graphs import rename
from lcprune.exporters.verify import MAX_RELATIVE_DIFF, Reference, check_stages
from lcprune.models.network import Network
from lcprune_runtime.progress import tracked
from lcprune_runtime.session import Floats, to_float

OPSET = 18  # the lowest that the exporter takes: older ones it ignores
BATCH = "batch"
EXAMPLE_BATCH = 7
"""Images that the exporter sees: it is many times faster for a size that it knows, which is then made any size."""
STAGE_OUTPUTS = ("hidden", "logits")  # of every stage but the last, which has logits alone
Shape = tuple[int, ...]
M = TypeVar("M", bound=nn.Module)

_TORCH_BATCH = 64
_ROUNDING_IMAGES = 32


class _Stage(nn.Module):
    """What is computed before an exit decides: layer groups, the critic, and what is handed to the next stage."""

    def __init__(self, layers: Sequence[nn.Module], critic: nn.Module, handover: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.critic = critic
        self.handover = handover

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.layers(x)
        return self.handover(hidden), self.critic(hidden)


class _Chain(nn.Module):
    """All stages: what each gives, one after the other.

    The image is read by the first stage, and by each behind one that gives logits alone.
    """

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        hidden, found = image, []
        for stage in self.stages:
            if isinstance(stage, _Stage):
                hidden, logits = stage(hidden)
                found += [hidden, logits]
            else:
                found.append(stage(hidden))
                hidden = image
        return found


def cpu_copy(module: M) -> M:
    """An independent copy in eval mode on the CPU, so that the caller's module stays as it is."""
    twin = copy.deepcopy(module).cpu().eval()
    for tensor in (*twin.parameters(), *twin.buffers()):
        tensor.data = tensor.data.contiguous()  # weights that were trained channels_last
    return twin


def cascade_stages(
    network: Network, kept: Sequence[int], images: NDArray[np.generic]
) -> tuple[list[onnx.ModelProto], Reference]:
    """The float32 stages of a network with the early exits `kept`, compared with torch; without any, main alone.

    Args:
        network: Left as it is.
        kept: Exit indices, ascending, without main.
        images: For the comparison, ``(N, C, H, W)``, uint8 or float in 0..1.

    Returns:
        The stages, and what torch makes of the images.

    Raises:
        ExportError: If torch cannot export a stage, or they differ from torch.
    """
    network = cpu_copy(network)
    stages = export_stages(network, kept, images.shape[1:])
    exits = [*kept, len(network.groups) - 1]
    computed, positions = _of_their_sizes(network, exits)
    reference = Reference(images, _torch_logits(computed, images)[positions])
    with _rounding_named(network, images):
        check_stages(stages, reference)
    return stages, reference


def _of_their_sizes(network: Network, exits: Sequence[int]) -> tuple[Network, list[int]]:
    """Of several input sizes those alone that `exits`, main among them, have; and which exits of them these are."""
    sizes = network.image_sizes
    groups = [k for k in range(len(network.groups)) if not sizes or sizes[k] in {sizes[each] for each in exits}]
    critics = [network.critics[k] for k in groups[:-1]]
    own_sizes = [sizes[k] for k in groups] if sizes else []
    smaller = Network(network.normalize, [network.groups[k] for k in groups], critics, image_sizes=own_sizes)
    return smaller, [groups.index(each) for each in exits]


def export_stages(network: Network, kept: Sequence[int], image_shape: Shape) -> list[onnx.ModelProto]:
    """One model per kept early exit, with outputs ``hidden`` and ``logits``, and one for the rest, with ``logits``.

    A stage before one that reads the image anew, as the first one of an input size does, has ``logits`` alone.

    Groups between two kept exits become one stage; the critics of the other exits are left out. A pool that the next
    group begins with is moved to the end of the stage: it makes what is handed over smaller, and costs less than
    handing over the larger tensor.

    Args:
        network: In eval mode, on the CPU.
        kept: Exit indices of the network, ascending, without main.
        image_shape: ``(C, H, W)``.

    Raises:
        ExportError: If torch cannot export a stage.
        ValueError: If `kept` names no early exits in ascending order.
    """
    modules = stage_modules(network, kept, image_shape)
    if len(modules) > 1 and (whole := _export_any_batch(_Chain([m for m, _ in modules]), image_shape, _ends(modules))):
        return _cut(whole, modules)
    return [
        export_module(module, shape, STAGE_OUTPUTS if isinstance(module, _Stage) else STAGE_OUTPUTS[1:])
        for module, shape in tracked(modules, "exporting stages")
    ]


def _ends(modules: Sequence[tuple[nn.Module, Shape]]) -> list[str]:
    """Names of what `_Chain` gives."""
    names: list[str] = []
    for k, (module, _) in enumerate(modules):
        names += [f"hidden.{k + 1}", f"logits.{k}"] if isinstance(module, _Stage) else [f"logits.{k}"]
    return names


def _cut(whole: onnx.ModelProto, modules: Sequence[tuple[nn.Module, Shape]]) -> list[onnx.ModelProto]:
    """The stages of an exported `_Chain`."""
    whole.graph.value_info.extend(whole.graph.output)
    extractor = onnx.utils.Extractor(whole)
    stages, entrance = [], "image"
    for k, (module, _) in enumerate(modules):
        names = {f"hidden.{k + 1}": "hidden"} if isinstance(module, _Stage) else {}
        names |= {f"logits.{k}": "logits"}
        stage = extractor.extract_model([entrance], list(names))
        rename(stage.graph, {**names, entrance: "image"})
        _strip(stage)
        stages.append(stage)
        entrance = f"hidden.{k + 1}" if isinstance(module, _Stage) else "image"
    return stages


def stage_modules(network: Network, kept: Sequence[int], image_shape: Shape) -> list[tuple[nn.Module, Shape]]:
    """The stages of `export_stages` as modules of torch, each with the shape of its input, without the batch.

    Raises:
        ValueError: If `kept` names no early exits in ascending order.
    """
    if list(kept) != sorted(set(kept)) or any(not 0 <= exit_index < len(network.critics) for exit_index in kept):
        raise ValueError(f"{list(kept)} are no early exits in ascending order; there are {len(network.critics)}")
    modules: list[tuple[nn.Module, Shape]] = []
    groups, shape = list(network.groups), image_shape
    spans = group_spans([*kept, len(groups) - 1], network.starts)
    for k, (first, last) in enumerate(spans):
        layers = groups[first : last + 1]
        if first in network.starts:
            layers, shape = [*network.entrance(first), *layers], image_shape
        if last == len(groups) - 1 or spans[k + 1][0] in network.starts:  # nothing reads the hidden layer
            modules.append((nn.Sequential(*layers, *network.critics[last : last + 1]), shape))
            continue
        pool, groups[last + 1] = _split_pool(groups[last + 1])
        stage = _Stage(layers, network.critics[last], pool)
        modules.append((stage, shape))
        shape = _hidden_shape(stage, shape)
    return modules


def _split_pool(group: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The pool that a group begins with, or an identity, and the rest of the group."""
    if isinstance(group, nn.Sequential) and len(group) > 1 and isinstance(group[0], nn.MaxPool2d | nn.AvgPool2d):
        return group[0], group[1:]
    return nn.Identity(), group


def export_module(module: nn.Module, input_shape: Shape, outputs: Sequence[str]) -> onnx.ModelProto:
    """`module` as ONNX with input ``image`` of any batch size, and nothing in it about this machine.

    Args:
        module: In eval mode, on the CPU, with one tensor argument.
        input_shape: Without the batch.
        outputs: Names of what `module` returns.

    Raises:
        ExportError: If torch cannot export it.
    """
    if (model := _export_any_batch(module, input_shape, outputs)) is None:
        example = torch.zeros(EXAMPLE_BATCH, *input_shape)
        model = _finished(_export_quietly(module, example, outputs, ({0: torch.export.Dim(BATCH)},)))
    return model


def _export_any_batch(module: nn.Module, input_shape: Shape, outputs: Sequence[str]) -> onnx.ModelProto | None:
    """`module` exported for `EXAMPLE_BATCH` images, for any number; None if that cannot be had so."""
    model = _export_quietly(_folded(module), torch.zeros(EXAMPLE_BATCH, *input_shape), outputs, None)
    return _finished(model) if _take_any_batch(model) else None


def _finished(model: onnx.ModelProto) -> onnx.ModelProto:
    _write_flattens(model.graph)
    _strip(model)
    return model


def _folded(module: nn.Module) -> nn.Module:
    """A module whose convolutions do what the BatchNorm behind them did: the exporter has less to read.

    One that torch.fx cannot trace stays as it is; the exporter folds its BatchNorm, too.
    """
    try:
        folded: nn.Module = fuse(module)
    except Exception:  # tracing calls the module, which raises whatever it raises
        return module
    return folded


def _export_quietly(module: nn.Module, example: Tensor, outputs: Sequence[str], dynamic_shapes: Any) -> onnx.ModelProto:
    silence = io.StringIO()
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
        ):
            program: Any = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
                input_names=["image"],
                output_names=list(outputs),
                dynamic_shapes=dynamic_shapes,
            )
            model: onnx.ModelProto = program.model_proto
    except Exception as error:  # the exporter raises whatever its passes raise
        cause = error.__cause__ or error  # its own message is about how to report it
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise ExportError(
            f"torch cannot export the network to ONNX: {reason}",
            "use layers that torch.onnx knows, with no control flow that depends on the image or the batch size",
        ) from error
    return model


def _take_any_batch(model: onnx.ModelProto) -> bool:
    """Lets a model of `EXAMPLE_BATCH` images take any number; False where that number is in its computation.

    Args:
        model: Changed in place: the batch is named where it is the first dimension, and a Reshape keeps it.
    """
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value == EXAMPLE_BATCH:
            dims[0].dim_param = BATCH
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.value_info)}
    for node in [node for node in graph.node if node.op_type == "Reshape" and node.input[1] in constants]:
        batch, *row = shapes.get(node.input[0], ("",))
        _, *wanted = numpy_helper.to_array(constants[node.input[1]]).tolist()
        if batch and batch.dim_param == BATCH and math.prod(wanted) == math.prod(dim.dim_value for dim in row):
            name = f"{node.output[0]}.shape"
            graph.initializer.append(numpy_helper.from_array(np.array([0, *wanted]), name))  # 0: as it is in the input
            node.CopyFrom(helper.make_node("Reshape", [node.input[0], name], node.output, name=node.name))
    return _keeps_rows(model)


def _has_rows(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return bool(dims) and dims[0].dim_param == BATCH


def _keeps_rows(model: onnx.ModelProto) -> bool:
    """Whether shape inference finds the batch of the input in every output."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    return all(_has_rows(value) for value in onnx.shape_inference.infer_shapes(bare, data_prop=True).graph.output)


def _hidden_shape(stage: nn.Module, input_shape: Shape) -> Shape:
    with torch.no_grad():
        return tuple(stage(torch.zeros(1, *input_shape))[0].shape[1:])


def _write_flattens(graph: onnx.GraphProto) -> None:
    """Turns ``Reshape(x, [-1, n])`` with n values a row into Flatten, which no batch size can upset."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.value_info, *graph.input)}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants or node.input[0] not in shapes:
            continue
        batch, *row = shapes[node.input[0]]
        values = math.prod(dim.dim_value for dim in row)  # 0 where a size is not known
        if batch.dim_param and constants[node.input[1]].tolist()[1:] == [values]:
            flatten = helper.make_node("Flatten", node.input[:1], node.output, axis=1)
            node.CopyFrom(flatten)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _strip(model: onnx.ModelProto) -> None:
    """Removes stack traces, class names and shapes in between; they hold local paths, and nothing reads them."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.value_info[:]
    graph.name = "lcprune"
    model.producer_name, model.producer_version = "lcprune", ""
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]


@contextmanager
def _rounding_named(network: Network, images: NDArray[np.generic]) -> Iterator[None]:
    """Says so where the stages differ from torch because float32 cannot give the logits of `network` any better.

    BatchNorm that divides by next to nothing makes such networks, as after a few steps of training.
    """
    try:
        yield
    except ParityError as error:
        off = _rounding(network, images[:_ROUNDING_IMAGES])
        if not off > MAX_RELATIVE_DIFF / 10:  # also where it is not known
            raise
        raise ParityError(
            f"{error.problem}; torch itself is {off:.0e} of the largest logit off the same network in 64 bits",
            "train it longer: its numbers are too far apart for 32 bits, as those of BatchNorm are after a few steps",
        ) from error


def _rounding(network: Network, images: NDArray[np.generic]) -> float:
    """By how much torch in float32 is off float64, as a part of the largest logit; NaN if it cannot do float64."""
    try:
        exact = _torch_logits(copy.deepcopy(network).double(), images, torch.float64)
    except RuntimeError:
        return float("nan")
    return float(np.abs(_torch_logits(network, images) - exact).max() / np.abs(exact).max())


def _torch_logits(network: Network, images: NDArray[np.generic], dtype: torch.dtype = torch.float32) -> Floats:
    """Logits of every exit, ``(exits, N, classes)``."""
    pixels = torch.from_numpy(to_float(images)).to(dtype)
    batches = []
    with torch.no_grad():
        for start in range(0, len(pixels), _TORCH_BATCH):
            batches.append(torch.stack(network(pixels[start : start + _TORCH_BATCH])))
    return torch.cat(batches, dim=1).numpy()
