"""Networks with more than a chain of layers, through the exporter and the stitching."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lcprune import recipe
from lcprune.exporters.progressive import write_network
from lcprune.models import Network, Normalize, build, initialize
from lcprune.models.msdnet import build_msdnet, classifier, reader
from lcprune.models.resnet import RESNETS
from lcprune_runtime.metadata import ModelInfo
from lcprune_runtime.session import ProgressiveSession

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def resnet(monkeypatch: pytest.MonkeyPatch) -> Network:
    """Shortcuts across layers: one block a stage, two early exits."""
    monkeypatch.setitem(RESNETS, "resnet50", (1, 1, 1, 1))
    overrides = ["model.width=0.016", "critics.after=[1, 2]", "critics.channels=4", "train.init=kaiming"]
    network = build(recipe.load("resnet50_cifar10", overrides), 5, (3, 8, 8), MEAN, STD)
    return randomized(network, (0.5, 1.5))


def msdnet(_: pytest.MonkeyPatch) -> Network:
    """Groups that hand on several scales at once: three layers, so that a scale goes at each cut."""
    groups, shapes = build_msdnet((3, 8, 8), 5, layers=3, width=0.16, cuts=(1, 2))
    reads = [reader(group, shape) for group, shape in zip(groups[:-1], shapes, strict=True)]
    critics = [nn.Sequential(*start, *classifier(shape, 5, 4)) for start, shape in reads]
    network = Network(Normalize(MEAN, STD), groups, critics)
    initialize(network, "kaiming", seed=0)
    return randomized(network, (0.1, 0.5))


def randomized(network: Network, variances: tuple[float, float]) -> Network:
    """BatchNorm that does something."""
    generator = torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(part.running_mean, -0.5, 0.5, generator=generator)
            nn.init.uniform_(part.running_var, *variances, generator=generator)
    return network.eval()


@pytest.mark.parametrize("make", [resnet, pytest.param(msdnet, marks=pytest.mark.slow)])
def test_a_progressive_model_says_what_torch_says_at_any_batch_size(
    make: Callable[[pytest.MonkeyPatch], Network],
    images: np.ndarray,
    make_info: Callable[..., ModelInfo],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, floats = make(monkeypatch), images.astype(np.float32) / 255
    with torch.no_grad():
        logits = torch.stack(network(torch.from_numpy(floats)))  # (3, 33, classes)
    confidences = logits.softmax(dim=2).amax(dim=2)
    thresholds = [confidence.sort().values[16:18].mean().item() for confidence in confidences[:2]]
    expected = torch.where(confidences[0] >= thresholds[0], 0, torch.where(confidences[1] >= thresholds[1], 1, 2))
    assert expected.unique().tolist() == [0, 1, 2]
    path = tmp_path / "model.onnx"
    parity = write_network(network, [0, 1], path, make_info(0, 1, 2, thresholds=thresholds), images)
    assert parity.max_abs_diff < 1e-4
    session = ProgressiveSession(path)
    for count in (33, 1, 0):
        written = session(floats[:count])
        assert written.exit_indices.tolist() == expected[:count].tolist()
        said = logits[expected[:count], torch.arange(count)].numpy()
        np.testing.assert_allclose(written.logits, said, rtol=1e-3, atol=1e-4)
