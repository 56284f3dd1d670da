"""Every trunk of torchvision and timm that the documentation names, from the cut to a progressive file."""

import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from lcprune import recipe
from lcprune.analysis.counting import count_cost, count_macs, count_params
from lcprune.data.sources import DIGIT_CLASSES
from lcprune.exporters.progressive import write_network
from lcprune.exporters.quantize import reduce
from lcprune.exporters.stages import cascade_stages
from lcprune.models import Network, build
from lcprune.models.backbones import cut_names, make
from lcprune.training.methods import build_method
from lcprune.training.optim import build_optimizers
from lcprune.training.step import EagerStep
from lcprune_runtime.metadata import ExitInfo, InputInfo, ModelInfo
from lcprune_runtime.session import ProgressiveSession
from tests.environments import with_packages

REPOSITORY = Path(__file__).resolve().parents[2]
TRUNKS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("efficientnet_b0", "regnet_y_400mf", "convnext_tiny", "shufflenet_v2", "densenet121", "vgg16_bn"),
)
TIMM = (
    *("mobilenetv3_small_050", "efficientnet_lite0", "mobilenetv2_100", "resnet18", "regnety_002", "convnext_atto"),
    *("ghostnet_100",),
)
BLOCKS = ("resnet18", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny")
"""Trunks that have between them most kinds of blocks."""
EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
SHAPE = (3, 32, 32)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
TEXT = """\
name: any
data: {{source: imagefolder, image_size: 32}}
model: {{trunk: {trunk}, groups: 3}}
critics: {{head: pooled, channels: 4}}
train: {{iterations: 1, lr: 0.001}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("trunk", [*(f"torchvision/{name}" for name in TRUNKS), *(f"timm/{name}" for name in TIMM)])
def test_a_trunk_is_cut_trained_profiled_and_exported(trunk: str, tmp_path: Path) -> None:
    if trunk.startswith("timm/"):
        pytest.importorskip("timm")
    loaded = recipe.parse(TEXT.format(trunk=trunk))
    network = build(loaded, 10, SHAPE, MEAN, STD)
    whole = make(loaded.model.trunk, 10, SHAPE, seed=0).eval()
    assert len(cut_names(network.groups)) == 2

    cost = count_cost(network, SHAPE)
    assert sum(cost.cascade.group_macs) == count_macs(whole, SHAPE) == cost.exits[-1].macs
    assert count_params(network.groups) == count_params(whole)
    image = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(image)[-1], whole(network.normalize(image)), rtol=1e-4, atol=1e-5)

    _train_two_steps(network.train(), loaded)
    network.eval()
    with torch.no_grad():
        logits = network(image)
        for k, expected in enumerate(logits, start=1):
            torch.testing.assert_close(network.submodel(k)(image), expected)
    _export(network, tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.installs
def test_trunks_of_timm_where_it_is_installed(tmp_path: Path) -> None:
    python = with_packages(tmp_path / "env", EXTRAS["timm"])
    paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "runtime")))
    tests = [f"{__file__}::test_a_trunk_is_cut_trained_profiled_and_exported", "tests/models/test_timm.py"]
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-k", "timm", *tests],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("trunk", BLOCKS)
def test_every_convolution_of_a_trunk_is_int8(
    write_reduced: Callable[..., Any], trunk: str, tmp_path: Path, plain_logits: Callable[..., np.ndarray]
) -> None:
    network = build(recipe.parse(TEXT.format(trunk=f"torchvision/{trunk}")), 10, SHAPE, MEAN, STD).eval()
    images = _shapes(96)
    _spread_confidences(network, torch.from_numpy(images[64:].astype(np.float32) / 255))
    stages, _ = cascade_stages(network.eval(), (0, 1), images[64:])
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    reduced = reduce(stages, "int8", images[:64])
    assert reduced.quantization.int8_convolutions >= len(convolutions)  # average pools become convolutions
    parity = write_reduced(reduced, tmp_path / "int8.onnx", _info(network, 0.5, 0.4), images[64:])
    assert (parity.max_abs_diff, parity.exits_agree) == (0.0, True)
    expected, got = (plain_logits(each, images[64:])[0] for each in (stages, reduced.stages))
    # of the first exit: what comes behind it is, with weights that were drawn, hardly more than noise
    assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.8


def _shapes(count: int) -> np.ndarray:
    """Large shapes of some colour, as images have them: a network does not say the same of all."""
    rough = torch.from_numpy(np.random.default_rng(1).random((count, 3, 4, 4), dtype=np.float32))
    return (nn.functional.interpolate(rough, SHAPE[1:], mode="bilinear") * 255).round().to(torch.uint8).numpy()


def _train_two_steps(network: Network, loaded: recipe.Recipe) -> None:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(4, *SHAPE, generator=generator), torch.tensor([0, 3, 5, 9])
    optimizers = build_optimizers(loaded, network)
    torch.manual_seed(0)
    step = EagerStep(build_method(loaded, network), optimizers, torch.device("cpu"), bf16=False)
    step(images, labels, 0)  # in timm, a residual branch begins with a BatchNorm of weights 0, which stops gradients
    losses = step(images, labels, 1)
    assert losses.exits.isfinite().all()
    assert losses.exits.shape == (3,)
    gradients = [weight.grad for weight in network.parameters()]
    still = [gradient for gradient in gradients if gradient is None or not gradient.any()]
    assert len(still) < len(gradients) / 10  # BatchNorm of one value and dead units get no gradient
    for group in network.groups:
        first = next(part for part in group.modules() if isinstance(part, nn.Conv2d | nn.Linear))
        assert first.weight.grad is not None
        assert first.weight.grad.any()


@torch.no_grad()
def _quiet_residuals(network: Network) -> None:
    """Residual branches a fifth as loud, as training makes them: of 33 untrained ones, float32 loses four digits."""
    for name, module in network.named_modules():
        if name.endswith(("bn3", "f.c.1")):  # the last one of a bottleneck, of ResNet and of RegNet
            module.weight *= 0.2


@torch.no_grad()
def _spread_confidences(network: Network, images: torch.Tensor) -> None:
    """Logits of the critics with mean 0 and standard deviation 2: no confidence is next to another.

    BatchNorm's statistics are those of the images, or an untrained network's activations would all but vanish.
    """
    update_bn([images], network)
    for critic, logits in zip(network.critics, network(images), strict=False):
        scale = 2 / logits.std(dim=0)
        critic[-1].weight *= scale[:, None]
        critic[-1].bias.copy_((critic[-1].bias - logits.mean(dim=0)) * scale)


def _info(network: Network, *thresholds: float) -> ModelInfo:
    exits = tuple(ExitInfo(name, index, 1, 1, None, None) for index, name in enumerate(network.exit_names))
    return ModelInfo(
        classes=DIGIT_CLASSES,
        mean=MEAN,
        std=STD,
        exits=exits,
        input=InputInfo(size=32, channels=3),
        recipe_sha256="0" * 64,
        main_macs=1,
        exit_macs=(1, 1, 1),
        thresholds=thresholds,
    )


def _export(network: Network, path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, *SHAPE), dtype=np.uint8)
    floats = images.astype(np.float32) / 255
    _quiet_residuals(network)
    _spread_confidences(network, torch.from_numpy(floats))
    with torch.no_grad():
        logits = torch.stack(network(torch.from_numpy(floats)))
    confidences = logits.softmax(dim=2).amax(dim=2)
    thresholds = [confidence.sort().values[5:7].mean().item() for confidence in confidences[:2]]
    parity = write_network(network, (0, 1), path, _info(network, *thresholds), images)
    assert parity.exits_agree
    expected = torch.where(confidences[0] >= thresholds[0], 0, torch.where(confidences[1] >= thresholds[1], 1, 2))
    assert ProgressiveSession(path)(floats).exit_indices.tolist() == expected.tolist()
