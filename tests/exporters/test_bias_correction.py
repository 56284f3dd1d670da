"""What rounded weights take from an output on average is added to the bias."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from lcprune.exporters.bias_correction import correct_biases
from lcprune.exporters.stages import export_module
from lcprune_runtime.session import open_session

LARGEST = 8  # very few levels, so that the loss is large


def outputs(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    found: np.ndarray = open_session(model.SerializeToString(), "a model").run(None, {"image": images})[0]
    return found


def round_weights(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim > 1:
            steps = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / LARGEST
            tensor.CopyFrom(numpy_helper.from_array((np.round(values / steps) * steps).astype(np.float32), tensor.name))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 8, 3, groups=4, bias=False),
        nn.Conv2d(4, 6, 1, groups=2),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
    ],
    ids=["all channels", "depthwise, without a bias", "groups", "linear"],
)
def test_the_mean_of_every_output_is_what_it_was(layer: nn.Module) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in layer.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
    model = export_module(nn.Sequential(layer).eval(), (4, 8, 8), ("logits",))
    pixels = np.random.default_rng(0).random((2, 4, 8, 8), dtype=np.float32)
    images = np.tile(pixels.mean(axis=(2, 3), keepdims=True), (1, 1, 8, 8))  # of one colour: every place is alike
    before = outputs(model, images).mean(axis=0)
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    round_weights(plain)
    correct_biases(model, {"image": images}, LARGEST)
    round_weights(model)
    np.testing.assert_allclose(outputs(model, images).mean(axis=0), before, atol=1e-5)
    assert np.abs(outputs(plain, images).mean(axis=0) - before).max() > 1e-3
