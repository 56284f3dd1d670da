import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lcprune.exporters import progressive, stages
from lcprune.exporters.quantize import Reduced
from lcprune.exporters.stages import cpu_copy, export_stages
from lcprune.exporters.verify import Parity, Reference
from lcprune.models.network import Network, Normalize
from lcprune_runtime.metadata import ExitInfo, InputInfo, ModelInfo, read_info

CLASSES = 5
SIZE = 8


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _head(channels: int, size: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(channels * size * size, CLASSES)]


@torch.no_grad()
def _spread_logits(network: Network) -> None:
    """Standard deviation 2 over the rows, mean 0: confidences from 0.3 to 1 at every exit."""
    logits = network.eval()(torch.rand(64, 3, SIZE, SIZE))
    network.train()
    heads = [*(critic[-1] for critic in network.critics), network.groups[-1][-1]]
    for head, outputs in zip(heads, logits, strict=True):
        scale = 2 / outputs.std(dim=0)
        head.weight *= scale[:, None]
        head.bias.copy_((head.bias - outputs.mean(dim=0)) * scale)


@pytest.fixture(scope="session")
def make_network() -> Callable[[int], Network]:
    """Up to four exits on 8x8 RGB images, with BatchNorm statistics and confidences that vary from row to row."""

    def make(exits: int, seed: int = 0) -> Network:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            groups: list[nn.Module] = [nn.Sequential(*_convolution(3, 4))]
            size = SIZE
            for k in range(1, exits):
                pool: list[nn.Module] = [nn.MaxPool2d(2)] if k < 3 else []
                size = size // 2 if pool else size
                groups.append(nn.Sequential(*pool, *_convolution(4, 4)))
            groups[-1] = nn.Sequential(*groups[-1].children(), *_head(4, size))
            sizes = [8, 4, 2][: exits - 1]
            critics = [
                nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(4, 3, 3, padding=1), nn.ReLU(), *_head(3, size // 2))
                for size in sizes
            ]
            network = Network(Normalize([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]), groups, critics)
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.uniform_(module.running_mean, -0.5, 0.5)
                    nn.init.uniform_(module.running_var, 0.1, 0.5)
            _spread_logits(network)
        return network

    return make


@pytest.fixture(scope="session")
def network4(make_network: Callable[[int], Network]) -> Network:
    return make_network(4)


@pytest.fixture(scope="session")
def stages_of(network4: Network) -> Callable[..., list[onnx.ModelProto]]:
    """Stages of `network4` for the kept exits, exported once: each export takes a second."""

    @functools.cache
    def export(*kept: int) -> list[onnx.ModelProto]:
        return export_stages(cpu_copy(network4), kept, (3, SIZE, SIZE))

    return export


@pytest.fixture
def quick_export(stages_of: Callable[..., list[onnx.ModelProto]], monkeypatch: pytest.MonkeyPatch) -> None:
    """`cascade_stages` takes the stages of `network4` from `stages_of`."""
    export = stages.export_stages

    def quickly(network: Network, kept: Sequence[int], shape: Any) -> list[onnx.ModelProto]:
        return stages_of(*kept) if len(network.groups) == 4 else export(network, kept, shape)

    monkeypatch.setattr(stages, "export_stages", quickly)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (33, 3, SIZE, SIZE), dtype=np.uint8)


@pytest.fixture(scope="session")
def make_info() -> Callable[..., ModelInfo]:
    def make(*exit_indices: int, thresholds: Sequence[float] = ()) -> ModelInfo:
        return ModelInfo(
            classes=tuple(f"class {n}" for n in range(CLASSES)),
            mean=(0.5, 0.4, 0.3),
            std=(0.2, 0.25, 0.3),
            exits=tuple(ExitInfo(f"exit {k}", k, 100 + k, 10 + k, 50.5, None) for k in exit_indices),
            input=InputInfo(size=SIZE, channels=3),
            recipe_sha256="ab" * 32,
            main_macs=1000,
            exit_macs=tuple(200 + k for k in exit_indices),
            thresholds=tuple(thresholds),
        )

    return make


@pytest.fixture(scope="session")
def torch_logits(network4: Network, images: np.ndarray) -> np.ndarray:
    """``(4, 33, classes)``."""
    was_training = network4.training
    with torch.no_grad():
        logits = torch.stack(network4.eval()(torch.from_numpy(images.astype(np.float32) / 255)))
    network4.train(was_training)
    return logits.numpy()


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory,
    network4: Network,
    images: np.ndarray,
    make_info: Callable[..., ModelInfo],
    torch_logits: np.ndarray,
) -> Path:
    """All four exits, thresholds at the median confidence of each."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    progressive.write_network(
        network4, [0, 1, 2], path, make_info(0, 1, 2, 3, thresholds=median_thresholds(torch_logits)), images
    )
    return path


@pytest.fixture
def written(
    quick_export: None, network4: Network, images: np.ndarray, make_info: Callable[..., ModelInfo], exported: Path
) -> Callable[..., Parity]:
    """``written(path, threshold_input, layout="flat")``: the model of `exported`, written in another way."""

    def write(path: Path, threshold_input: Any, **changes: Any) -> Parity:
        info = make_info(0, 1, 2, 3, thresholds=read_info(exported).thresholds)
        info = dataclasses.replace(info, **changes)
        return progressive.write_network(network4, [0, 1, 2], path, info, images, threshold_input)

    return write


@pytest.fixture(scope="session")
def write_reduced() -> Callable[..., Parity]:
    """`write_model` of stages of reduced precision, compared with themselves."""

    def write(reduced: Reduced, path: Path, info: ModelInfo, images: np.ndarray, *threshold_input: Any) -> Parity:
        stages, quantization = reduced.stages, reduced.quantization
        reference = Reference.of_stages(stages, images, quantization.precision)
        return progressive.write_model(stages, reference, path, info, *threshold_input, quantization=quantization)

    return write


def confidences(logits: np.ndarray) -> np.ndarray:
    """In float64, by the definition."""
    exponents = np.exp(logits.astype(np.float64))
    return (exponents / exponents.sum(-1, keepdims=True)).max(-1)


def median_thresholds(logits: np.ndarray) -> list[float]:
    """Midway between the two middle confidences of every early exit, so that no row lies on one."""
    ordered = np.sort(confidences(logits[:-1]), axis=1)
    middle = ordered.shape[1] // 2
    return [float(value) for value in (ordered[:, middle - 1] + ordered[:, middle]) / 2]
