"""Biases that make up for what rounding the weights to integers takes from a layer's output on average.

Depthwise convolutions have few weights for each channel, whose errors do not cancel
(`benchmarks/results/int8_rounding.json`). Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, with the means of calibration images, not those of BatchNorm.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lcprune.exporters.graphs import constant
from lcprune_runtime.session import Floats, open_session

_AXES = {"Conv": [0, 2, 3], "Gemm": [0]}
"""Of what each kind of layer reads, all but the channels."""


def correct_biases(model: ModelProto, images: Mapping[str, Floats], largest_weight: int) -> None:
    """Adds to the bias of every convolution and linear layer what it will lose: (W - rounded W) E[x].

    Padding is counted as if it had the means of the image: exact inside, approximate at the border.

    Args:
        model: In float32; changed in place.
        images: By the name of the input, ``(N, C, H, W)``: their means are E[x], channel by channel.
        largest_weight: Largest integer that will stand for a weight.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    layers = [node for node in graph.node if node.op_type in _AXES and node.input[1] in constants]
    for node, mean in zip(layers, _means(model, layers, images), strict=True):
        weight = _weight(node, numpy_helper.to_array(constants[node.input[1]]))  # (outputs, inputs of a group, values)
        lost = (weight - _rounded(weight, largest_weight)).sum(axis=2)
        groups = mean.reshape(-1, lost.shape[1])  # (groups, inputs of a group)
        of_output = groups.repeat(len(lost) // len(groups), axis=0)  # (outputs, inputs of a group)
        old = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 and node.input[2] else 0.0
        name = f"{node.output[0]}.bias"
        graph.initializer.append(constant(name, (old + (lost * of_output).sum(axis=1)).astype(np.float32)))
        node.input[:] = [*node.input[:2], name]


def _means(model: ModelProto, layers: Sequence[NodeProto], images: Mapping[str, Floats]) -> list[NDArray[np.float64]]:
    """Mean over the images of every channel that each layer reads, ``(C,)`` each."""
    probed = ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    for kind, axes in _AXES.items():
        probed.graph.initializer.append(constant(kind, np.array(axes)))
    for k, layer in enumerate(layers):
        mean = helper.make_node("ReduceMean", [layer.input[0], layer.op_type], [f"mean.{k}"], keepdims=0)
        probed.graph.node.append(mean)
        probed.graph.output.append(helper.make_tensor_value_info(f"mean.{k}", TensorProto.FLOAT, None))
    found = open_session(probed.SerializeToString(), "the layers before rounding").run(None, dict(images))
    return [np.asarray(mean, np.float64) for mean in found]


def _weight(node: NodeProto, values: NDArray[np.generic]) -> NDArray[np.float64]:
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    if node.op_type == "Gemm" and not transposed:
        values = values.T
    return values.astype(np.float64).reshape(*values.shape[:2], -1)


def _rounded(weight: NDArray[np.float64], largest: int) -> NDArray[np.float64]:
    """Weights as int8 with a step per output channel stands for them; `largest` stands for the largest one."""
    steps = np.maximum(np.abs(weight).max(axis=(1, 2), keepdims=True) / largest, np.finfo(np.float32).tiny)
    rounded: NDArray[np.float64] = np.round(weight / steps) * steps
    return rounded
