"""A file of every format and precision has the size and the operators that its card says."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lcprune.exporters.graphs import subgraphs
from lcprune.exporters.ort import required_operators
from lcprune.exporters.progressive import write_model
from lcprune.exporters.quantize import Reduced, reduce
from lcprune.exporters.stages import export_stages
from lcprune.exporters.verify import Reference
from lcprune.models.network import Network, Normalize
from lcprune.specs import FORMATS, PRECISIONS, Precision
from lcprune_runtime.metadata import ModelInfo

PART_OF_FP32 = {"fp32": 1.0, "int8": 0.25, "fp16": 0.5, "w8": 0.25}
"""Bytes of a weight."""
FLOAT = {"Conv", "FusedConv"}
INTEGER = {"QLinearConv"}
ROUNDED = {"QuantizeLinear", "DequantizeLinear"}


@pytest.fixture(scope="module")
def wide_stages() -> list[onnx.ModelProto]:
    """Two stages for 8x8 RGB images, so wide that weights are nearly all of a file."""
    first = nn.Sequential(nn.Conv2d(3, 128, 3, padding=1), nn.ReLU())
    critic = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(128, 256, 3, padding=1), nn.ReLU(), nn.Flatten())
    last = nn.Sequential(nn.MaxPool2d(4), nn.Conv2d(128, 256, 3, padding=1), nn.ReLU(), nn.Flatten())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = [nn.Linear(256 * 4, 5), nn.Linear(256 * 4, 5)]
        network = Network(
            Normalize([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]),
            [first, nn.Sequential(*last, heads[0])],
            [nn.Sequential(*critic, heads[1])],
        )
    return export_stages(network.eval(), [0], (3, 8, 8))


@pytest.fixture(scope="module")
def write(
    wide_stages: list[onnx.ModelProto],
    images: np.ndarray,
    make_info: Callable[..., ModelInfo],
    write_reduced: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Precision, str], Path]:
    """``write("int8", ".ort")``: a progressive model, checked as any export."""
    folder, info = tmp_path_factory.mktemp("formats"), make_info(0, 1, thresholds=[0.5])

    @functools.cache
    def reduced(precision: Any) -> Reduced:
        return reduce(wide_stages, precision, images)

    @functools.cache
    def written(precision: Precision, suffix: str) -> Path:
        path = folder / f"{precision}{suffix}"
        if precision == "fp32":
            write_model(wide_stages, Reference.of_stages(wide_stages, images, precision), path, info)
        else:
            write_reduced(reduced(precision), path, info, images)
        return path

    return written


@pytest.mark.parametrize(
    ("precision", "suffix", "operators", "never"),
    [
        ("fp32", ".onnx", {"Conv", "Gemm"}, INTEGER | ROUNDED),
        ("fp32", ".ort", {"FusedConv", "Gemm"}, INTEGER | ROUNDED),
        ("int8", ".onnx", {"Conv", "Gemm"} | ROUNDED, INTEGER),  # onnxruntime makes them integer when it loads the file
        ("int8", ".ort", {"QGemm"} | INTEGER, FLOAT | {"Gemm"}),
        ("fp16", ".onnx", {"Conv", "Gemm", "Cast"}, INTEGER | ROUNDED),
        ("w8", ".onnx", {"Conv", "Gemm", "Cast", "Mul"}, INTEGER | ROUNDED),
        ("w8", ".ort", {"FusedConv", "Gemm", "Cast", "Mul"}, INTEGER | ROUNDED),
    ],
)
def test_size_and_operators(
    write: Callable[[Any, str], Path], precision: str, suffix: str, operators: set[str], never: set[str]
) -> None:
    path = write(precision, suffix)
    used = operators_of(path)
    assert operators <= used
    assert not never & used
    ratio = path.stat().st_size / write("fp32", ".onnx").stat().st_size
    assert ratio == pytest.approx(PART_OF_FP32[precision], rel=0.1)


def test_the_weights_of_an_onnx_file(write: Callable[[Any, str], Path]) -> None:
    stored = {precision: weight_types(write(precision, ".onnx")) for precision in PRECISIONS}
    assert stored == {"fp32": {"float32"}, "int8": {"int8"}, "fp16": {"float16"}, "w8": {"int8"}}


def test_what_is_not_written_is_refused() -> None:
    assert {(name, precision) for name, spec in FORMATS.items() for precision in spec.refused} == {("ort", "fp16")}


def operators_of(path: Path) -> set[str]:
    """Names of all operators, those in branches as well."""
    if path.suffix == ".ort":
        return {name for line in required_operators(path).splitlines() for name in line.split(";")[2].split(",")}
    return {node.op_type for graph in subgraphs(onnx.load(path).graph) for node in graph.node}


def weight_types(path: Path) -> set[str]:
    """Of all constants of more than a thousand numbers."""
    tensors = [tensor for graph in subgraphs(onnx.load(path).graph) for tensor in graph.initializer]
    return {onnx.numpy_helper.to_array(tensor).dtype.name for tensor in tensors if np.prod(tensor.dims) > 1000}
