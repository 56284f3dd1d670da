"""`lcprune train` and its dry run: what it refuses, what it prints, what it writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lcprune import recipe as recipes

Cli = Callable[..., Any]
Refused = Callable[..., dict[str, str]]


def settings(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def write_images(folder: Path, *classes: str, count: int = 2) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / name / f"{index}.png")


FOLDER_RECIPE = """\
name: mine
data: {source: imagefolder, image_size: 8, batch_size: 2}
model: {width: 0.0625}
critics: {head: pooled, pool_to: 2}
train: {iterations: 2}
"""


@pytest.mark.parametrize("command", ["train", "validate"])
def test_a_bad_recipe(here: Path, refused: Refused, command: str) -> None:
    for text, problem, fix in (
        ("", "my.yaml holds no recipe", "start from one that ships: lcprune recipes digits > my.yaml"),
        ("name: [a\n", "my.yaml, line 2: ", "fix the YAML there"),
    ):
        (here / "my.yaml").write_text(text)
        error = refused(command, "my.yaml")
        assert error["kind"] == "recipe"
        assert problem in error["problem"]
        assert fix in error["fix"]
        assert not (here / "runs").exists()


def test_wrong_usage_has_exit_code_2(here: Path, cli: Cli) -> None:
    for arguments, said in [
        (["train", "digits", "--device", "abacus"], "--device"),
        (["train", "digits", "--seed", "-1"], "--seed"),
        (["train", "digits", "--fast"], "No such option"),
        (["trian", "digits"], "No such command"),
    ]:
        result = cli(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in result.stderr


def test_a_device_that_is_not_here(here: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = refused("train", "digits", "--device", "cuda")
    assert error == {"kind": "setup", "problem": "there is no cuda device here", "fix": "use --device auto"}
    assert not (here / "runs").exists()


def test_a_folder_that_holds_something_or_cannot_be_made(here: Path, refused: Refused) -> None:
    (here / "full").mkdir()
    (here / "full" / "mine.txt").write_text("mine")
    error = refused("train", "digits", "--out", "full")
    assert (error["kind"], error["problem"]) == ("run", "full is there already and holds something")
    assert error["fix"] == "give --out a new folder, or leave it out"
    assert [path.name for path in (here / "full").iterdir()] == ["mine.txt"]
    assert "holds something" in refused("train", "digits", "--out", "full/mine.txt")["problem"]
    error = refused("train", "digits", "--out", "full/mine.txt/run")
    assert error["problem"] == "full/mine.txt/run cannot be made: Not a directory"
    assert error["fix"] == "give --out a folder that you may write to"


def test_without_a_place_for_runs_latest_a_run_is_trained_all_the_same(
    here: Path, cli: Cli, tiny: tuple[str, ...]
) -> None:
    (here / "runs").write_text("a file in the way")
    result = cli("train", "digits", *settings(*tiny, "train.iterations=1"), "--out", "mine")
    assert result.exit_code == 0, result.stderr
    assert (here / "mine/weights.safetensors").is_file()


def test_a_class_folder_without_images(here: Path, refused: Refused) -> None:
    write_images(here / "data/train", "cat", "dog")
    (here / "data/train/eel").mkdir()
    (here / "my.yaml").write_text(FOLDER_RECIPE)
    error = refused("train", "my.yaml")
    assert error["kind"] == "data"
    assert error["problem"] == "the class folder data/train/eel has no images"
    assert error["fix"].startswith("add some (")
    assert error["fix"].endswith(", or remove the folder")
    (here / "data/train/eel/damaged.png").write_bytes(b"\x89PNG and nothing else")
    assert "data/train/eel/damaged.png cannot be read as an image" in refused("train", "my.yaml")["problem"]
    assert not (here / "runs").exists()


def test_the_folder_of_the_images_is_named_in_three_ways(
    here: Path, cli: Cli, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(here / "a/train", "cat", "dog")
    write_images(here / "b/train", "cat", "dog", "eel")
    (here / "my.yaml").write_text(FOLDER_RECIPE)

    def classes(*arguments: str) -> int:
        """Of the untrained network, by the parameters of main: 32 weights and a bias for each class."""
        shown = json.loads(cli("train", "my.yaml", "--dry-run", "--json", *arguments).stdout)
        return int(shown["candidates"][-1]["params"])

    assert refused("train", "my.yaml", "--dry-run")["problem"] == "there is no folder data"
    monkeypatch.setenv("LCPRUNE_DATA", "a")
    two = classes()
    three = classes("--data-root", "b")
    assert three - two == 33
    assert classes("--set", "data.root=b") == three


def test_the_result_as_json(here: Path, cli: Cli, tiny: tuple[str, ...]) -> None:
    result = cli("train", "digits", *settings(*tiny), "--out", "mine", "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)  # nothing else is on stdout
    accuracies = {f"{split}_{kind}_pct" for split in ("val", "test") for kind in ("accuracy", "balanced_accuracy")}
    assert set(content) == {"run", "iterations", "seconds", "bad_images", *accuracies}
    assert (content["run"], content["iterations"]) == ("mine", 60)
    assert content["seconds"] > 0
    assert len(content["val_accuracy_pct"]) == len(content["test_accuracy_pct"]) == 4
    assert result.stderr.startswith("run folder: mine\n")
    assert "step 60: val accuracy % 1 " in result.stderr
    assert "\x1b" not in result.stderr


def test_the_result_as_a_table(here: Path, cli: Cli, tiny: tuple[str, ...]) -> None:
    result = cli("train", "digits", *settings(*tiny, "train.iterations=1"))
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["exit", "val", "accuracy", "%", "test", "accuracy", "%"]
    assert [line[:11].strip() for line in lines[1:5]] == ["sub-model 1", "sub-model 2", "sub-model 3", "main"]
    assert lines[5] == "run: runs/digits-1"
    assert lines[6].startswith("next: lcprune select --max-drop 2.0")
    alone = cli("train", "digits", *settings(*tiny, "train.iterations=1", "train.method=backprop"))
    assert alone.stdout.splitlines()[-2:] == ["run: runs/digits-2", "next: lcprune export --format onnx --exit main"]


def test_quiet_prints_nothing(here: Path, cli: Cli, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    result = cli("train", "digits", *settings(*tiny, "train.iterations=1"), "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert capfd.readouterr() == ("", "")  # not by way of the file descriptors either
    assert cli("train", "digits", "--dry-run", "--quiet").stdout == ""


def test_seed_and_set_reach_the_recipe(here: Path, cli: Cli, tiny: tuple[str, ...]) -> None:
    cli("train", "digits", *settings(*tiny, "train.iterations=1"), "--seed", "7", "--quiet")
    recipe = recipes.load("runs/digits-1/recipe.yaml")
    assert (recipe.train.seed, recipe.train.iterations, recipe.model.width) == (7, 1, 0.0625)


def test_a_dry_run_shows_the_recipe_and_writes_nothing(here: Path, cli: Cli) -> None:
    result = cli("train", "vgg_cifar10", "--dry-run", "--json")
    content = json.loads(result.stdout)
    assert set(content) == {"recipe", "candidates", "cascade_macs"}
    assert content["recipe"]["train"]["iterations"] == 80_000
    assert {tuple(candidate) for candidate in content["candidates"]} == {
        ("name", "exit_index", "macs", "params", "macs_ratio")
    }
    assert [c["macs"] for c in content["candidates"]] == [116326400, 171966464, 247218176, 322715648]
    assert content["cascade_macs"] == 456556544
    table = cli("train", "vgg_cifar10", "--dry-run").stdout
    assert "all exits in cascade: 456.56M MACs, 141.5 % of main" in table
    assert list(here.iterdir()) == []
