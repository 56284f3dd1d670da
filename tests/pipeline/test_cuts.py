"""`lcprune cuts`, and a trunk from elsewhere from the recipe to the predictions of a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lcprune import runs
from lcprune.models.backbones import make
from lcprune.pipeline import stored
from lcprune.pipeline.cuts import balance, list_cuts

TRUNK = "torchvision/shufflenet_v2_x0_5"


def test_places_are_listed_with_their_macs_and_what_auto_takes(cli: Callable[..., Any]) -> None:
    result = list_cuts(TRUNK, image_size=32, classes=10, groups=3)
    shown = cli("cuts", TRUNK, "--image-size", "32", "--classes", "10", "--groups", "3", "--json")
    assert json.loads(shown.stdout) == result
    assert [place["name"] for place in result["places"] if place["auto"]] == result["auto"]
    assert len(result["auto"]) == 2
    assert result["places"][0] == {
        "name": "maxpool",
        "macs": 24 * 27 * 16 * 16,
        "shape": [24, 8, 8],
        "in_block": False,
        "share": 24 * 27 * 16 * 16 / result["macs"],
        "auto": False,
    }
    table = cli("cuts", "shufflenet_v2_x0_5", "--image-size", "32", "--classes", "10", "--groups", "3").stdout
    assert "maxpool" in table
    assert "model.cuts: auto makes 3 groups of" in table


def test_a_trunk_of_this_package_is_not_listed(refused: Callable[..., dict[str, str]]) -> None:
    error = refused("cuts", "resnet50")
    assert error["problem"].startswith("resnet50 is this package's own backbone")
    assert error["fix"] == "leave model.cuts out, or name torchvision/resnet50"


@pytest.mark.slow
def test_a_trunk_from_torchvision_is_trained_from_a_file_and_resumed(here: Path, cli: Callable[..., Any]) -> None:
    weights = make(TRUNK, 3, (3, 32, 32), seed=4).state_dict()
    save_file(weights, here / "pretrained.safetensors")
    (here / "r.yaml").write_text(
        "name: r\n"
        "data: {source: digits, batch_size: 32, val_size: 50}\n"
        f"model: {{trunk: {TRUNK}, weights: pretrained.safetensors, groups: 3}}\n"
        "critics: {head: pooled, channels: 4}\n"
        "train: {iterations: 4, lr: 0.01, freeze: 1, checkpoint_every: 2, schedule: constant}\n"
    )
    dry = json.loads(cli("train", "r.yaml", "--dry-run", "--json").stdout)
    assert sum(group["macs"] for group in dry["groups"]) == dry["candidates"][-1]["macs"]
    assert dry["groups"][-1]["ends_at"] == "logits"
    assert "layer groups: to " in cli("train", "r.yaml", "--dry-run").stdout

    done = cli("train", "r.yaml", "--out", "whole", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    for line in (
        "weights: pretrained.safetensors",
        "the classifier (fc) of 3 classes is replaced by a new one of 10",
        "the first convolution (conv1.0) reads grey: its weights for RGB are summed",
        "layer groups: to ",
    ):
        assert line in done.stderr
    trained = load_file(here / "whole" / runs.WEIGHTS)
    expected = weights["conv1.0.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(trained["groups.0.0.conv1.0.weight"], expected)  # frozen

    assert cli("train", "r.yaml", "--out", "half", "--device", "cpu", "--set", "train.iterations=2").exit_code == 0
    (here / "pretrained.safetensors").unlink()  # needed no more
    assert cli("resume", "half", "--device", "cpu", "--set", "train.iterations=4").exit_code == 0
    assert (here / "half" / runs.WEIGHTS).read_bytes() == (here / "whole" / runs.WEIGHTS).read_bytes()
    _, loaded = runs.open_run(here / "whole")
    network, facts = stored.load_network(here / "whole", loaded)
    assert [group["ends_at"] for group in balance(network, facts.image_shape)] == [g["ends_at"] for g in dry["groups"]]


def test_missing_weights_leave_no_run(here: Path, refused: Callable[..., dict[str, str]]) -> None:
    settings = [
        f"model.trunk={TRUNK}",
        "model.weights=no.pth",
        "critics.after=[1,2]",
        "critics.head=pooled",
        "model.width=1",
    ]
    given = [part for setting in settings for part in ("--set", setting)]
    error = refused("train", "digits", "--out", "run", "--device", "cpu", *given)
    assert error["problem"] == "model.weights: there is no file no.pth"
    assert not (here / "run").exists()
