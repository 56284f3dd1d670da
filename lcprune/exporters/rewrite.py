"""Float32 stages, written in the way that integer kernels compute fast; what they compute stays the same.

Measured with onnxruntime on one core with VNNI, quarter-width VGG: an average pool in integers costs more than the
convolution after it, a first convolution of 3 channels more than one of 4, and where a layout of channels first is
asked for, every stage transposes twice.
"""

import copy
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lcprune_runtime.session import Floats

CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_REDUCING = ("AveragePool", "Shape", "Concat", "Resize")  # what torch exports an image as that is made smaller
_ALIGNED = 4  # integer kernels of x86 and Arm multiply four channels at a time


def split_reduction(stage: ModelProto) -> ModelProto | None:
    """Takes away what makes the image smaller before it is normalised: integers begin behind it.

    Args:
        stage: Changed in place: its input is the smaller image.

    Returns:
        A model from ``image`` to ``reduced``, of unknown height and width; None where there is nothing of that kind.
    """
    graph = stage.graph
    subtract = next((node for node in graph.node if node.op_type == "Sub"), None)
    if subtract is None or subtract.input[0] == graph.input[0].name:
        return None
    nodes = list(graph.node)[: list(graph.node).index(subtract)]
    if any(node.op_type not in _REDUCING for node in nodes):
        return None
    constants = [tensor for tensor in graph.initializer if any(tensor.name in node.input for node in nodes)]
    image = copy.deepcopy(graph.input[0])
    batch, channels = image.type.tensor_type.shape.dim[:2]
    smaller = helper.make_tensor_value_info(
        "reduced", TensorProto.FLOAT, [batch.dim_param, channels.dim_value, "h", "w"]
    )
    reduction = helper.make_graph(copy.deepcopy(nodes), "reduction", [image], [smaller], copy.deepcopy(constants))
    for node in reduction.node:
        node.output[:] = ["reduced" if name == subtract.input[0] else name for name in node.output]
    for node in nodes:
        graph.node.remove(node)
    subtract.input[0] = image.name
    graph.input[0].CopyFrom(smaller)
    graph.input[0].name = image.name
    _drop_unused(graph)
    return helper.make_model(reduction, opset_imports=stage.opset_import, ir_version=stage.ir_version)


def prepend(reduction: ModelProto, stage: ModelProto) -> None:
    """Puts a `split_reduction` before a stage, which is changed in place."""
    graph, image = stage.graph, stage.graph.input[0].name
    for node in graph.node:
        node.input[:] = ["reduced" if name == image else name for name in node.input]
    behind = list(graph.node)
    del graph.node[:]
    graph.node.extend([*reduction.graph.node, *behind])
    graph.initializer.extend(reduction.graph.initializer)
    graph.input[0].CopyFrom(reduction.graph.input[0])


def pools_as_convolutions(stage: ModelProto) -> None:
    """Turns each average pool without padding into a depthwise convolution: its equal weights are exact in int8.

    Args:
        stage: Changed in place.
    """
    graph, shapes = stage.graph, _shapes(stage)
    for node in graph.node:
        options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        padded = any(options.get("pads", ())) or options.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        if (
            node.op_type != "AveragePool"
            or padded
            or options.get("ceil_mode")
            or len(shapes.get(node.input[0], ())) != 4
        ):
            continue
        channels, kernel = shapes[node.input[0]][1], options["kernel_shape"]
        weight = np.full((channels, 1, *kernel), 1 / np.prod(kernel), np.float32)
        graph.initializer.append(numpy_helper.from_array(weight, f"{node.output[0]}.weight"))
        sizes = {"kernel_shape": kernel, "strides": options.get("strides", (1, 1)), "group": channels}
        inputs = [node.input[0], f"{node.output[0]}.weight"]
        node.CopyFrom(helper.make_node("Conv", inputs, node.output, name=node.name, **sizes))


def means_as_pools(stage: ModelProto) -> None:
    """Turns a mean over height and width into a global average pool, which has a kernel in integers.

    In float between integers its sums would depend on the batch, and with them a level now and then.

    Args:
        stage: Changed in place.
    """
    graph, shapes, constants = stage.graph, _shapes(stage), _constants(stage.graph)
    for mean in [node for node in graph.node if node.op_type == "ReduceMean"]:
        axes = constants.get(mean.input[1]) if len(mean.input) > 1 else None
        if axes is None or len(shapes.get(mean.input[0], ())) != 4 or sorted(axes % 4) != [2, 3]:
            continue
        keeps = all(attribute.i for attribute in mean.attribute if attribute.name == "keepdims")
        pooled = mean.output[0] if keeps else f"{mean.output[0]}.pooled"
        if not keeps:
            flatten = helper.make_node("Flatten", [pooled], mean.output, name=f"{mean.name}.flat", axis=1)
            graph.node.insert(list(graph.node).index(mean) + 1, flatten)
        mean.CopyFrom(helper.make_node("GlobalAveragePool", mean.input[:1], [pooled], name=mean.name))
    _drop_unused(graph)


def flatten_channels_last(stage: ModelProto) -> None:
    """Lets a linear layer read ``(N, H, W, C)``, as a convolution in integers leaves it.

    Args:
        stage: Changed in place.
    """
    graph, shapes, constants = stage.graph, _shapes(stage), _constants(stage.graph)
    for flatten in [node for node in graph.node if node.op_type == "Flatten"]:
        readers = [node for node in graph.node if flatten.output[0] in node.input]
        shape = shapes.get(flatten.input[0], ())
        if len(shape) != 4 or len(readers) != 1 or not _is_linear(readers[0], constants):
            continue
        name = readers[0].input[1]
        weight = constants[name].reshape(-1, *shape[1:]).transpose(CHANNELS_LAST)  # (outputs, H, W, C)
        tensor = numpy_helper.from_array(np.ascontiguousarray(weight.reshape(len(weight), -1)), f"{name}.last")
        graph.initializer.append(tensor)
        readers[0].input[1] = tensor.name
        moved = f"{flatten.output[0]}.last"
        transpose = helper.make_node("Transpose", [flatten.input[0]], [moved], name=moved, perm=CHANNELS_LAST)
        graph.node.insert(list(graph.node).index(flatten), transpose)
        flatten.input[0] = moved
    _drop_unused(graph)


def fold_normalization(stage: ModelProto) -> bool:
    """Makes the first convolution read pixels as they are, followed by channels of ones: see `with_ones`.

    The normalisation goes into the weights, and the means into those of the ones. A bias could not take the means:
    what a convolution pads with is 0 after the normalisation, and that is what the ones are at the border.

    Args:
        stage: Changed in place where it begins with a subtraction, a division and nothing but a convolution.

    Returns:
        Whether it does.
    """
    graph, constants = stage.graph, _constants(stage.graph)
    found = _first_nodes(graph, constants)
    if found is None:
        return False
    subtract, divide, convolution = found
    mean, std = (constants[node.input[1]].astype(np.float64).reshape(-1) for node in (subtract, divide))  # (C,)
    weight = constants[convolution.input[1]].astype(np.float64)  # (outputs, C, h, w)
    scaled = weight / std.reshape(1, -1, 1, 1)
    ones = np.zeros((len(weight), padded_channels(weight.shape[1]), *weight.shape[2:]))
    ones[:, : weight.shape[1]] = scaled
    ones[:, weight.shape[1]] = -(scaled * mean.reshape(1, -1, 1, 1)).sum(axis=1)
    bias = constants[convolution.input[2]] if len(convolution.input) > 2 else np.zeros(len(weight))
    names = [f"{convolution.input[1]}.ones", f"{convolution.input[1]}.ones_bias"]
    for name, values in zip(names, (ones, bias), strict=True):
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    convolution.input[:] = [graph.input[0].name, *names]
    graph.node.remove(subtract)
    graph.node.remove(divide)
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = ones.shape[1]
    _drop_unused(graph)
    return True


def padded_channels(channels: int) -> int:
    """How many channels an image has with its channels of ones: at least one more, and a multiple of 4."""
    return (channels // _ALIGNED + 1) * _ALIGNED


def with_ones(images: Floats) -> Floats:
    """Images with the channels of ones behind their own, ``(N, 4, H, W)`` for one to three channels."""
    n, channels, height, width = images.shape
    ones = np.ones((n, padded_channels(channels) - channels, height, width), np.float32)
    return np.concatenate([images, ones], axis=1)


def _first_nodes(graph: GraphProto, constants: dict[str, NDArray[np.generic]]) -> list[NodeProto] | None:
    """The subtraction, the division and the convolution that a stage begins with, each the only reader of the last."""
    chain, name = [], graph.input[0].name
    for op in ("Sub", "Div", "Conv"):
        readers = [node for node in graph.node if name in node.input]
        if len(readers) != 1 or readers[0].op_type != op or readers[0].input[1] not in constants:
            return None
        chain.append(readers[0])
        name = readers[0].output[0]
    weight = constants[chain[-1].input[1]]
    channels = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    return chain if weight.ndim == 4 and weight.shape[1] == channels else None


def _is_linear(node: NodeProto, constants: dict[str, NDArray[np.generic]]) -> bool:
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return node.op_type == "Gemm" and transposed and node.input[1] in constants


def _constants(graph: GraphProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _shapes(stage: ModelProto) -> dict[str, Sequence[int]]:
    """Shapes of all tensors in between; a size that is not known is 0."""
    graph = onnx.shape_inference.infer_shapes(stage).graph
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }


def _drop_unused(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
