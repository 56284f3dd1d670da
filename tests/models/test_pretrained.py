"""Pretrained weights from files: what fits, what is adapted, what is refused."""

import copy
from functools import cache
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lcprune import recipe
from lcprune.errors import ModelError
from lcprune.models import Network, build
from lcprune.models.backbones import make, torchvision_models
from lcprune.models.pretrained import load_pretrained

TRUNK = "torchvision/shufflenet_v2_x0_5"
Weights = dict[str, Tensor]


@pytest.fixture
def weights() -> Weights:
    """Of a trunk for 7 classes."""
    found = dict(make(TRUNK, 7, (3, 32, 32), seed=9).state_dict())
    found["conv1.1.running_mean"] = torch.full_like(found["conv1.1.running_mean"], 0.5)
    return found


def parsed(path: Path | str) -> recipe.Recipe:
    text = "name: a\ndata: {source: imagefolder, image_size: 32}\ntrain: {iterations: 1}\n"
    keys = [f"model.trunk={TRUNK}", f"model.weights={path}", "critics.head=pooled", "critics.channels=4"]
    return recipe.parse(text, overrides=keys)


@cache
def built(classes: int, channels: int) -> Network:
    """With initial weights; tracing it takes most of a test's time."""
    return build(parsed("none"), classes, (channels, 32, 32), (0.5,) * channels, (0.25,) * channels)


def loaded(path: Path | str, classes: int = 7, channels: int = 3) -> tuple[Network, list[str]]:
    network = copy.deepcopy(built(classes, channels))
    return network, load_pretrained(network, parsed(path).model)


def trunk_of(network: Network) -> Weights:
    return {name: value for group in network.groups for name, value in group[0].state_dict().items()}


def refused(path: Path | str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        loaded(path)
    return caught.value


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_torch_file_is_read(tmp_path: Path, weights: Weights, wrapper: str | None, prefix: str) -> None:
    named = {prefix + name: value for name, value in weights.items()}
    torch.save(named if wrapper is None else {wrapper: named, "epoch": 3}, tmp_path / "w.pth")
    network, notices = loaded(tmp_path / "w.pth")
    assert notices == [f"weights: {tmp_path / 'w.pth'}"]
    assert all(torch.equal(value, weights[name]) for name, value in trunk_of(network).items())


def test_a_safetensors_file_is_read_and_the_critics_keep_theirs(tmp_path: Path, weights: Weights) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    network, _ = loaded(tmp_path / "w.safetensors")
    plain, none = loaded("none")
    assert none == []
    assert all(torch.equal(value, weights[name]) for name, value in trunk_of(network).items())
    assert torch.equal(network.critics[0][0].weight, plain.critics[0][0].weight)


def test_the_weights_of_a_run_are_read(tmp_path: Path) -> None:
    source, _ = loaded("none")
    torch.nn.init.ones_(next(source.groups[1].parameters()))
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    network, _ = loaded(tmp_path / "weights.safetensors")
    assert all(torch.equal(value, trunk_of(source)[name]) for name, value in trunk_of(network).items())


def test_a_classifier_of_other_classes_begins_anew(tmp_path: Path, weights: Weights) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    network, notices = loaded(tmp_path / "w.safetensors", classes=4)
    assert notices[1:] == ["the classifier (fc) of 7 classes is replaced by a new one of 4"]
    trunk, fresh = trunk_of(network), make(TRUNK, 4, (3, 32, 32), seed=0).state_dict()
    assert all(torch.equal(trunk[name], fresh[name]) for name in ("fc.weight", "fc.bias"))
    assert torch.equal(trunk["conv5.0.weight"], weights["conv5.0.weight"])


def test_grey_images_are_read_with_the_sum_over_the_channels(tmp_path: Path, weights: Weights) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    network, notices = loaded(tmp_path / "w.safetensors", channels=1)
    assert notices[1:] == ["the first convolution (conv1.0) reads grey: its weights for RGB are summed"]
    expected = weights["conv1.0.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(trunk_of(network)["conv1.0.weight"], expected)


def test_what_is_missing_superfluous_or_of_another_shape_is_named(tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / "w.safetensors"
    save_file({name: value for name, value in weights.items() if name != "conv5.0.weight"}, path)
    assert refused(path).problem == f"model.weights: {path} does not have: conv5.0.weight"
    save_file(weights | {"head.weight": torch.zeros(1)}, path)
    assert refused(path).problem == f"model.weights: {path} has weights that the backbone does not have: head.weight"
    save_file(weights | {"conv5.0.weight": torch.zeros(2, 3)}, path)
    assert refused(path).problem == (
        f"model.weights: {path} has other shapes: conv5.0.weight (2, 3) for (1024, 192, 1, 1)"
    )
    save_file({f"x.{name}": value for name, value in weights.items()}, path)
    assert refused(path).problem.endswith("more")


def test_a_file_without_counters_of_batches_is_read(tmp_path: Path, weights: Weights) -> None:
    save_file({n: v for n, v in weights.items() if not n.endswith("num_batches_tracked")}, tmp_path / "w.safetensors")
    assert loaded(tmp_path / "w.safetensors")


class Surprise:
    """Would be made by a file that is read without care."""


def test_a_file_that_holds_code_or_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    assert refused(path).problem == f"model.weights: there is no file {path}"
    torch.save({"state_dict": Surprise()}, path)
    assert refused(path).problem.startswith(f"model.weights: {path} cannot be read as weights: ")
    torch.save([1, 2], path)
    assert refused(path).problem == f"model.weights: {path} is no dictionary of weights by name"
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(b"not weights")
        assert "cannot be read as" in refused(tmp_path / name).problem


def test_without_a_network_the_default_weights_say_where_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    error = refused("default")
    assert error.problem.startswith(f"the default weights of {TRUNK} cannot be downloaded: ")
    assert "no route to host" in error.problem
    assert "https://download.pytorch.org/models/shufflenetv2_x0.5" in error.fix


def test_the_default_weights_are_those_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    found = make(TRUNK, 1000, (3, 32, 32), seed=5).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: dict(found))
    network, notices = loaded("default")
    enum = torchvision_models().get_model_weights("shufflenet_v2_x0_5").DEFAULT
    assert notices == [
        f"weights: {TRUNK}, {enum}",
        "the classifier (fc) of 1000 classes is replaced by a new one of 7",
    ]
    assert torch.equal(trunk_of(network)["conv5.0.weight"], found["conv5.0.weight"])
