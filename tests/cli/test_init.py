"""`lcprune init`: for several kinds of folder it writes a recipe that `validate` and `train --dry-run` take."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from lcprune.cli import recipes

Cli = Callable[..., Any]
Refused = Callable[..., dict[str, str]]


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training steps are measured by one test alone: it takes seconds."""
    if request.node.originalname != "test_a_newcomer_types_two_commands":
        monkeypatch.setattr(recipes, "_step_seconds", lambda _: 0.5)


def fill(
    root: Path, folders: Sequence[str], count: int = 6, size: tuple[int, int] = (20, 20), mode: str = "RGB"
) -> Path:
    """Images that are all different, as ``0.png`` and on in each folder."""
    for seed, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng([seed, index]).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / folder / f"{index}.png")
    return root


KINDS: dict[str, Callable[[Path], Path]] = {
    "a folder per class": lambda root: fill(root, ["cat", "dog"]),
    "train alone": lambda root: fill(root, ["train/cat", "train/dog"]),
    "train and test": lambda root: fill(root, ["train/cat", "train/dog", "test/cat"]),
    "three splits": lambda root: fill(root, ["train/cat", "train/dog", "val/cat", "val/dog", "test/dog"]),
    "grey": lambda root: fill(root, ["0", "1", "2"], mode="L"),
    "long photographs": lambda root: fill(root, ["cat", "dog"], size=(150, 100)),
    "a name to quote": lambda root: fill(root.parent / "1: my #photos", ["cat", "dog"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_recipe_is_right_and_its_network_can_be_built(here: Path, cli: Cli, kind: str) -> None:
    root = KINDS[kind](here / "photos")
    done = cli("init", root.name)
    assert done.exit_code == 0, done.stderr
    assert "wrote lcprune.yaml" in done.stdout
    assert cli("validate").exit_code == 0
    dry = cli("train", "--dry-run", "--json")
    assert dry.exit_code == 0, dry.stderr
    content = json.loads(dry.stdout)
    assert content["recipe"]["data"]["root"] == root.name
    assert len(content["candidates"]) == 4


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "vgg", "--image-size", "30"),
        ("--model", "resnet50", "--image-size", "32"),
        ("--model", "msdnet"),
        ("--model", "mobilenet_v3_small"),
        ("--image-size", "72"),
        ("--image-size", "64,32"),
    ],
)
def test_models_and_sizes_that_are_asked_for(here: Path, cli: Cli, options: Sequence[str]) -> None:
    fill(here / "photos", ["cat", "dog"])
    done = cli("init", "photos", *options)
    assert done.exit_code == 0, done.stderr
    assert cli("train", "--dry-run").exit_code == 0


def test_a_newcomer_types_two_commands(here: Path, cli: Cli) -> None:
    fill(here / "photos", ["cat", "dog"], count=12, size=(16, 16))
    damaged = here / "photos/cat/0.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    found = json.loads(cli("init", "photos", "--json").stdout)
    assert found["steps"] > 0
    assert found["training_s"] > 0
    done = cli("train", "--set", "train.epochs=2", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["val_accuracy_pct"]) == len(result["test_accuracy_pct"]) == 4


def test_what_it_says_and_the_same_as_json(here: Path, cli: Cli) -> None:
    root = fill(here / "photos", ["train/cat", "train/dog", "test/cat"], size=(20, 30))
    (root / "train/dog/0.png").write_bytes(b"no image")
    (root / "test/cat/copy.png").write_bytes((root / "train/cat/1.png").read_bytes())
    (root / "train/cat/notes.txt").write_text("a text")
    lines = [line.rstrip() for line in cli("init", "photos").stdout.splitlines()]
    assert lines[:5] == [
        "class  train  test",
        "cat        6     7",
        "dog        6     0",
        "all       12     7",
        "size: 20 x 30 pixels, all",
    ]
    for line in (
        "kinds: RGB 18",
        "damaged files: 1",
        "images in more than one split (which makes the accuracy there too high): 1",
        "  photos/test/cat/copy.png = photos/train/cat/1.png",
        "files that are not images, skipped: 1 .txt (such as photos/train/cat/notes.txt)",
        "wrote lcprune.yaml",
    ):
        assert line in lines
    assert any(line.startswith("  photos/train/dog/0.png cannot be read as an image") for line in lines)
    assert "on_bad_image: skip" in (here / "lcprune.yaml").read_text()
    done = cli("init", "photos", "--json", "--output", "mine.yaml")
    result = json.loads(done.stdout)
    assert result["recipe"] == "mine.yaml"
    assert (here / "mine.yaml").is_file()
    assert result["counts"] == {"train": {"cat": 6, "dog": 6}, "test": {"cat": 7}}
    assert [row["path"] for row in result["damaged"]] == ["photos/train/dog/0.png"]
    assert result["leaks"] == result["copies"] == [["photos/test/cat/copy.png", "photos/train/cat/1.png"]]
    assert result["width_px"] == [20.0] * 5


def test_many_classes_are_not_all_listed(here: Path, cli: Cli) -> None:
    fill(here / "photos", [f"c{number:02d}" for number in range(30)], count=3, size=(8, 8))
    lines = cli("init", "photos").stdout.splitlines()
    assert lines[19].split() == ["c18", "3"]
    assert lines[20].split() == ["11", "more", "33"]
    assert lines[21].split() == ["all", "90"]


def test_a_recipe_that_is_there_is_kept_unless_forced(here: Path, cli: Cli, refused: Refused) -> None:
    fill(here / "photos", ["cat", "dog"])
    (here / "lcprune.yaml").write_text("mine")
    assert "--force" in refused("init", "photos")["fix"]
    assert (here / "lcprune.yaml").read_text() == "mine"
    assert cli("init", "photos", "--force", "--quiet").stdout == ""
    assert (here / "lcprune.yaml").read_text().startswith("# 12 training images of 2 classes in photos.")


def test_a_root_that_train_finds(here: Path, cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = fill(tmp_path_factory.mktemp("elsewhere") / "photos", ["cat", "dog"])
    cli("init", elsewhere)
    assert json.loads(cli("validate", "--json").stdout)["data"]["root"] == str(elsewhere.resolve())
    (here / "other").mkdir()
    fill(here / "photos", ["cat", "dog"])
    cli("init", "photos", "--output", "other/mine.yaml")
    assert json.loads(cli("validate", "other/mine.yaml", "--json").stdout)["data"]["root"] == str(here / "photos")


def test_what_cannot_be_written_or_built_leaves_nothing(here: Path, refused: Refused) -> None:
    fill(here / "photos", ["cat", "dog"])
    refused("init", "nowhere")
    refused("init", "photos", "--output", "nowhere/lcprune.yaml")
    assert "mobilenet_v3_small" in refused("init", "photos", "--model", "mobilenet_v3_smal")["fix"]
    refused("init", "photos", "--model", "vgg", "--weights", "default")
    refused("init", "photos", "--model", "resnet18", "--weights", "nowhere.safetensors")
    assert [path.name for path in here.iterdir()] == ["photos"]


OWN_MODEL = """
from torch import nn

def net(classes):
    groups = [nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU()) for channels in (3, 4, 4)]
    return nn.Sequential(*groups, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)))
"""


def test_weights_of_ones_own_model_are_in_the_recipe_if_they_are_its_weights(
    here: Path, cli: Cli, refused: Refused
) -> None:
    fill(here / "photos", ["cat", "dog"])
    (here / "init_own_model.py").write_text(OWN_MODEL)
    names: dict[str, Any] = {}
    exec(OWN_MODEL, names)
    save_file(names["net"](1000).state_dict(), here / "own.safetensors")
    init = ("init", "photos", "--model", "init_own_model:net", "--weights")
    done = cli(*init, "own.safetensors")
    assert done.exit_code == 0, done.stderr
    assert json.loads(cli("validate", "--json").stdout)["model"]["weights"] == "own.safetensors"
    (here / "lcprune.yaml").unlink()
    assert "cannot be read as weights" in refused(*init, "init_own_model.py")["problem"]
    save_file({"0.0.weight": names["net"](2)[0][0].weight.detach()}, here / "part.safetensors")
    assert "does not have" in refused(*init, "part.safetensors")["problem"]
    assert not (here / "lcprune.yaml").exists()
