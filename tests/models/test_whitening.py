"""The whitening layer: what comes out of it, that it is frozen, and where it stands."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lcprune import models
from lcprune import recipe as recipes
from lcprune.analysis.counting import count_cost
from lcprune.models import Network, Normalize, Whitening
from lcprune.models.whitening import EPSILON
from lcprune.training.methods import build_method
from lcprune.training.optim import build_optimizers

TINY = ("model.width=0.0625", "critics.channels=8", "model.whiten=true")


def blurred(channels: int, count: int = 60, size: int = 12) -> np.ndarray:
    """Images whose neighbouring pixels are alike, in each channel with a strength of its own."""
    noise = np.random.default_rng(0).normal(size=(count, channels, size + 2, size + 2))
    smooth = noise[..., 2:, 2:] + noise[..., 1:-1, 1:-1] + noise[..., :-2, :-2]
    strength = np.array([20, 30, 10][:channels]).reshape(1, -1, 1, 1)
    return np.clip(128 + strength * smooth, 0, 255).astype(np.uint8)


def normalizer(images: np.ndarray) -> Normalize:
    pixels = images / 255
    return Normalize(pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist())


def fitted(channels: int) -> tuple[Whitening, Tensor]:
    """The layer, and what it is applied to."""
    images = blurred(channels)
    layer, normalize = Whitening(channels), normalizer(images)
    layer.fit(images, normalize)
    return layer, normalize(torch.from_numpy(images).float() / 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_directions_have_unit_variance_and_nothing_in_common(channels: int) -> None:
    layer, pixels = fitted(channels)
    count = 4 * channels
    with torch.no_grad():
        out = layer.convolution(pixels)[:, :count, :-1, :-1]  # the patches that lie inside the image
    flat = out.transpose(0, 1).reshape(count, -1).double()
    patches = nn.functional.unfold(pixels.double(), 2).transpose(1, 2).reshape(-1, count)
    values = np.linalg.eigvalsh(patches.T @ patches / len(patches))[::-1]
    expected = np.diag(values / (values + EPSILON))
    np.testing.assert_allclose(flat @ flat.T / flat.shape[1], expected, atol=2e-5)
    assert values[0] / values[-1] > 5  # before, they were far from equal


@pytest.mark.parametrize("channels", [1, 3])
def test_the_second_half_is_the_negative_of_the_first_and_the_size_stays(channels: int) -> None:
    layer, pixels = fitted(channels)
    out = layer(pixels)
    first, second = out.chunk(2, dim=1)
    assert out.shape == (60, 8 * channels, 12, 12)
    assert not (first * second).any()  # where one is positive the other is not
    torch.testing.assert_close(first - second, layer.convolution(pixels)[:, : 4 * channels])
    weight = layer.convolution.weight
    assert not weight[:, :, 0].any()
    assert not weight[:, :, :, 0].any()
    assert weight[:, :, 1:, 1:].abs().sum((1, 2, 3)).all()


def test_the_same_images_give_the_same_weights_and_only_the_first_5000_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcprune.models.whitening.IMAGES", 30)
    monkeypatch.setattr("lcprune.models.whitening.CHUNK", 7)
    images = blurred(3)
    normalize, other = normalizer(images), images.copy()
    other[30:] = 0
    layers = [Whitening(3) for _ in range(3)]
    for layer, content in zip(layers, (images, other, images[:29]), strict=True):
        layer.fit(content, normalize)
    first, same, different = (layer.convolution.weight for layer in layers)
    assert torch.equal(first, same)
    assert not torch.equal(first, different)


def test_images_without_contrast_give_finite_weights() -> None:
    layer = Whitening(1)
    layer.fit(np.zeros((3, 1, 4, 4), np.uint8), Normalize([0.5], [0.25]))
    assert layer.convolution.weight.isfinite().all()


def network_of(*overrides: str) -> tuple[recipes.Recipe, Network]:
    recipe = recipes.load("digits", [*TINY, *overrides])
    return recipe, models.build(recipe, 10, (1, 8, 8), (0.5,), (0.25,))


def test_it_belongs_to_the_first_group_and_moves_no_critic() -> None:
    _, network = network_of()
    _, plain = network_of("model.whiten=false")
    assert isinstance(network.groups[0][0], Whitening)
    assert [len(group) for group in network.groups] == [len(plain.groups[0]) + 1, *map(len, plain.groups[1:])]
    whitened, bare = count_cost(network, (1, 8, 8)), count_cost(plain, (1, 8, 8))
    # 8 kernels of 1x3x3, and the first convolution (4 channels) reads 8 channels instead of 1; on 8x8 pixels
    extra = (8 * 9 + 4 * 9 * 7) * 64
    assert [w.macs - b.macs for w, b in zip(whitened.exits, bare.exits, strict=True)] == [extra] * 4
    assert [w.params - b.params for w, b in zip(whitened.exits, bare.exits, strict=True)] == [extra // 64] * 4
    assert whitened.cascade.critic_macs == bare.cascade.critic_macs


@pytest.mark.parametrize("trunk", ["vgg", "resnet50"])
def test_any_trunk_can_stand_behind_it(trunk: str) -> None:
    _, network = network_of(f"model.trunk={trunk}", "critics.after=[2]")
    assert [logits.shape for logits in network.eval()(torch.zeros(2, 1, 8, 8))] == [(2, 10)] * 2


@pytest.mark.parametrize("method", ["local_critic", "backprop", "deep_supervision"])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_nothing_in_it_is_trained(method: str, memory: torch.memory_format) -> None:
    recipe, network = network_of(f"train.method={method}", "train.weight_decay=0.5")
    network.to(memory_format=memory)
    layer = network.groups[0][0]
    layer.fit(blurred(1), network.normalize)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    reached: list[Tensor] = []
    layer.register_forward_hook(lambda module, inputs, output: reached.append(output))
    optimizers = build_optimizers(recipe, network)
    images, labels = torch.rand(4, 1, 8, 8).to(memory_format=memory), torch.arange(4)
    build_method(recipe, network).backward(images, labels, 0)
    for optimizer in optimizers:
        optimizer.step()
    assert not reached[0].requires_grad  # so that no gradient is computed for its input
    assert layer.convolution.weight.grad is None
    assert torch.equal(layer.convolution.weight, before["groups.0.0.convolution.weight"])
    trained = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    assert {name for name, p in network.named_parameters() if id(p) not in trained} == {"groups.0.0.convolution.weight"}
    convolution = network.groups[0][1]
    assert isinstance(convolution, nn.Conv2d)
    assert not torch.equal(convolution.weight, before["groups.0.1.weight"])
