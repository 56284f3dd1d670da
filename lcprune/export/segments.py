"""From torch to ONNX: parts of a network as clean, self-contained models."""

import contextlib
import copy
import io
import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from lcprune.errors import ExportError
from lcprune.models.network import Network

OPSET = 18  # the lowest that the exporter takes: older ones it ignores
BATCH = "batch"
Shape = tuple[int, ...]


class _Stage(nn.Module):
    """Layer groups up to an exit and its critic: what is computed before the exit decides."""

    def __init__(self, layers: Sequence[nn.Module], critic: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.critic = critic

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.layers(x)
        return hidden, self.critic(hidden)


def cpu_copy(network: Network) -> Network:
    """An independent copy in eval mode on the CPU, so that the caller's network stays as it is."""
    return copy.deepcopy(network).cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def export_stages(network: Network, kept: Sequence[int], image_shape: Shape) -> list[onnx.ModelProto]:
    """One model per kept early exit, with outputs ``hidden`` and ``logits``, and one for the rest, with ``logits``.

    Groups between two kept exits become one stage; the critics of the other exits are left out.

    Args:
        network: In eval mode, on the CPU.
        kept: Exit indices of the network, ascending, without main.
        image_shape: ``(C, H, W)``.

    Raises:
        ExportError: If torch cannot export a stage.
    """
    groups = list(network.groups)
    starts = [0, *(exit_index + 1 for exit_index in kept)]
    shape = image_shape
    models = []
    for start, exit_index in zip(starts[:-1], kept, strict=True):
        layers = groups[start : exit_index + 1]
        stage = _Stage([network.normalize, *layers] if start == 0 else layers, network.critics[exit_index])
        models.append(export_module(stage, shape, ("hidden", "logits")))
        shape = _output_shape(stage.layers, shape)
    rest = groups[starts[-1] :]
    last = nn.Sequential(*([network.normalize, *rest] if not kept else rest))
    return [*models, export_module(last, shape, ("logits",))]


def export_module(module: nn.Module, input_shape: Shape, outputs: Sequence[str]) -> onnx.ModelProto:
    """`module` as ONNX with input ``image`` of any batch size, and nothing in it about this machine.

    Args:
        module: In eval mode, on the CPU, with one tensor argument.
        input_shape: Without the batch.
        outputs: Names of what `module` returns.

    Raises:
        ExportError: If torch cannot export it.
    """
    example = torch.zeros(2, *input_shape)  # a batch of 1 would be taken for a constant
    program = _export_quietly(module, example, outputs)
    model: onnx.ModelProto = program.model_proto
    _write_flattens(model.graph)
    _strip(model)
    return model


def _export_quietly(module: nn.Module, example: Tensor, outputs: Sequence[str]) -> Any:
    silence = io.StringIO()
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
        ):
            return torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
                input_names=["image"],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim(BATCH)},),
            )
    except Exception as error:  # the exporter raises whatever its passes raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(
            f"torch cannot export the network to ONNX: {reason}",
            "use layers that torch.onnx knows, with no control flow that depends on the image or the batch size",
        ) from error


def _output_shape(module: nn.Module, input_shape: Shape) -> Shape:
    with torch.no_grad():
        return tuple(module(torch.zeros(1, *input_shape)).shape[1:])


def _write_flattens(graph: onnx.GraphProto) -> None:
    """Turns ``Reshape(x, [-1, n])`` of an ``(N, ...)`` with n values a row into Flatten, which no batch size can upset."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.value_info, *graph.input)}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants or node.input[0] not in shapes:
            continue
        target = constants[node.input[1]].tolist()
        batch, *row = shapes[node.input[0]]
        values = 1
        for dim in row:
            values *= dim.dim_value  # 0 where the size is not known
        if batch.dim_param and target[1:] == [values]:
            node.op_type = "Flatten"
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("axis", 1))
            del node.input[1:]
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _strip(model: onnx.ModelProto) -> None:
    """Removes stack traces, class names and shapes in between; they hold local paths, and bytes nobody needs."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.value_info[:]
    graph.name = "lcprune"
    model.producer_name, model.producer_version = "lcprune", ""
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
