"""A network with shortcuts across its layers, through the exporter and the stitching."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lcprune import recipe
from lcprune.export.metadata import ModelInfo
from lcprune.export.progressive import write_progressive
from lcprune.export.session import ProgressiveSession
from lcprune.models import Network, build
from lcprune.models.resnet import RESNETS


@pytest.fixture
def resnet(monkeypatch: pytest.MonkeyPatch) -> Network:
    """One block a stage, two early exits, and BatchNorm that does something."""
    monkeypatch.setitem(RESNETS, "resnet50", (1, 1, 1, 1))
    overrides = ["model.width=0.016", "critics.after=[1, 2]", "critics.channels=4", "train.init=kaiming"]
    network = build(recipe.load("resnet50_cifar10", overrides), 5, (3, 8, 8), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    generator = torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(part.running_mean, -0.5, 0.5, generator=generator)
            nn.init.uniform_(part.running_var, 0.5, 1.5, generator=generator)
    return network.eval()


def test_a_progressive_resnet_says_what_torch_says(
    resnet: Network, images: np.ndarray, make_info: Callable[..., ModelInfo], tmp_path: Path
) -> None:
    with torch.no_grad():
        logits = torch.stack(resnet(torch.from_numpy(images.astype(np.float32) / 255)))  # (3, 33, classes)
    confidences = logits.softmax(dim=2).amax(dim=2)
    thresholds = [confidence.sort().values[16:18].mean().item() for confidence in confidences[:2]]
    expected = torch.where(confidences[0] >= thresholds[0], 0, torch.where(confidences[1] >= thresholds[1], 1, 2))
    assert expected.unique().tolist() == [0, 1, 2]
    path = tmp_path / "model.onnx"
    parity = write_progressive(resnet, [0, 1], thresholds, path, make_info(0, 1, 2), images)
    assert parity.max_abs_diff < 1e-4
    written = ProgressiveSession(path)(images.astype(np.float32) / 255)
    assert written.exit_indices.tolist() == expected.tolist()
    np.testing.assert_allclose(written.logits, logits[expected, torch.arange(33)].numpy(), rtol=1e-3, atol=1e-4)
