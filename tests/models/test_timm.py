"""Trunks of timm. All but the first two tests need the package, which is an extra."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lcprune import recipe
from lcprune.errors import ModelError, SetupError
from lcprune.models import Network, backbones, build
from lcprune.models.network import Normalize
from lcprune.models.pretrained import load_pretrained

SHAPE = (3, 32, 32)


def parsed(name: str, weights: str = "none") -> recipe.Recipe:
    text = "name: a\ndata: {source: imagefolder, image_size: 32}\ntrain: {iterations: 1}\n"
    keys = [f"model.trunk=timm/{name}", f"model.weights={weights}", "critics.head=pooled", "critics.channels=4"]
    return recipe.parse(text, overrides=keys)


def built(name: str, shape: tuple[int, int, int] = SHAPE) -> Network:
    return build(parsed(name), 5, shape, (0.5,) * shape[0], (0.25,) * shape[0])


def test_a_name_may_have_a_tag() -> None:
    assert parsed("resnet18.a1_in1k", "default").model.is_external


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SetupError) as caught:
        built("resnet18")
    assert caught.value.problem.startswith("timm/ trunks need the package timm: ")
    assert caught.value.fix.startswith("pip install timm")


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm")


def test_names_that_are_none_get_the_nearest(timm: Any) -> None:
    with pytest.raises(ModelError) as caught:
        built("resnet18.a1_in1")
    assert caught.value.problem == "timm has no classifier resnet18.a1_in1"
    assert "did you mean timm/resnet18.a1_in1k" in caught.value.fix
    with pytest.raises(ModelError, match="there are .* and [0-9]+ more"):
        built("qqqqqqqqqqqqqqqqqqqq")


def test_grey_images_and_the_seed(timm: Any) -> None:
    network = built("mobilenetv3_small_050", (1, 32, 32))
    assert network.groups[0].state_dict()["0.conv_stem.weight"].shape == (16, 1, 3, 3)
    assert [logits.shape for logits in network.eval()(torch.zeros(2, 1, 32, 32))] == [(2, 5)] * 4
    same = built("mobilenetv3_small_050", (1, 32, 32)).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in network.state_dict().items())


def test_a_vision_transformer_says_why_it_cannot_be_cut(timm: Any) -> None:
    with pytest.raises(ModelError) as caught:
        backbones.find_cuts("timm/vit_tiny_patch16_224", 5, (3, 224, 224), 4)
    assert caught.value.problem.startswith("the backbone has no place to cut: the output of ")
    with pytest.raises(ModelError, match="the backbone cannot read an image of 32x32: Input height"):
        backbones.find_cuts("timm/vit_tiny_patch16_224", 5, SHAPE, 4)


def test_weights_of_a_file_are_read_as_they_are(timm: Any, tmp_path: Path) -> None:
    torch.manual_seed(3)
    weights = timm.create_model("resnet18", num_classes=7).state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    network = built("resnet18")
    notices = load_pretrained(network, parsed("resnet18", str(tmp_path / "w.safetensors")).model)
    assert notices[1:] == [
        "the classifier (fc) of 7 classes is replaced by a new one of 5",
        "timm trained this backbone with data.mean: [0.485, 0.456, 0.406] and data.std: [0.229, 0.224, 0.225]; the "
        "recipe has others, which costs accuracy if the weights are timm's",
    ]
    network.normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert len(load_pretrained(network, parsed("resnet18", str(tmp_path / "w.safetensors")).model)) == 2
    assert torch.equal(network.groups[0].state_dict()["0.conv1.weight"], weights["conv1.weight"])


def test_default_weights_are_those_of_timm(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, config = built("resnet18"), parsed("resnet18", "default").model
    given = timm.create_model("resnet18")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: {("resnet18", True): given}[name, pretrained])
    assert load_pretrained(network, config)[0] == "weights: timm/resnet18, resnet18.a1_in1k"
    assert torch.equal(network.groups[0].state_dict()["0.conv1.weight"], given.state_dict()["conv1.weight"])

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ModelError) as caught:
        load_pretrained(network, config)
    assert caught.value.problem == "the default weights of timm/resnet18 cannot be downloaded: no route to host"
    assert "https://huggingface.co/timm/resnet18.a1_in1k" in caught.value.fix
