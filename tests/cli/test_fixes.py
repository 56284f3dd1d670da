"""What an error advises can be done: options exist, and doing it helps."""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcprune import errors, recipe
from tests.advice import COMMANDS, unknown_options

ROOT = Path(__file__).parents[2]
SOURCES = [*sorted((ROOT / "lcprune").rglob("*.py")), *sorted((ROOT / "runtime/lcprune_runtime").rglob("*.py"))]


def _fixes() -> Iterator[tuple[str, str]]:
    """Place and fix of every error in the code; what is put in is ``X``."""
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(getattr(node, "func", None), "id", None)
            if isinstance(node, ast.Call) and name in kinds and len(node.args) > 1:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", _text(node.args[1])


def _text(node: ast.expr) -> str:
    """All that an expression may say."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        inside = _text(node.value)
        return inside or "X"
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else ""
    return " ".join(filter(None, (_text(part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr))))


def test_every_option_in_the_fix_of_an_error_exists() -> None:
    fixes = [*_fixes()]
    assert len(fixes) > 200
    wrong = {place: bad for place, fix in fixes if (bad := unknown_options(fix, None))}
    assert wrong == {}
    commands = {place: word for place, fix in fixes for word in re.findall(r"lcprune ([a-z]+) ", fix + " ")}
    of_a_sentence = {"and", "in", "that"}
    assert {word for word in commands.values() if word not in COMMANDS} <= of_a_sentence


def test_an_option_of_another_command_is_found() -> None:
    assert unknown_options("name a writable place with --output", "profile") == ["--output"]
    assert unknown_options("lcprune export RUN --output x", "profile") == []
    assert unknown_options("lcprune profile RUN --output x", "export") == ["--output"]
    assert unknown_options("torchrun --nproc-per-node 2", "train") == []


# --- doing it helps


@pytest.fixture
def photos(here: Path) -> Path:
    draw = np.random.default_rng(0)
    for index in range(24):
        path = here / "photos" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    (here / "r.yaml").write_text(
        "name: r\ndata: {source: imagefolder, root: photos, image_size: 16, val_size: 8, batch_size: 8}\n"
        "model: {width: 0.0625}\ntrain: {iterations: 2, method: deep_supervision}\n"
    )
    return here / "photos"


ABSENT = "cuda" if sys.platform == "darwin" else "mps"
"""A device that this system cannot have."""
VALIDATE = ("validate", "digits")
OF_RUN = ("export", "run", "--exit", "1")
DONE: dict[str, tuple[tuple[str, ...], str, tuple[tuple[str, ...], ...]]] = {
    "a misspelt recipe": (("validate", "digit"), "did you mean digits?", (VALIDATE,)),
    "a misspelt key": (
        (*VALIDATE, "--set", "train.iteration=5"),
        "did you mean train.iterations?",
        ((*VALIDATE, "--set", "train.iterations=5"),),
    ),
    "a misspelt section": (
        (*VALIDATE, "--set", "trian.lr=1"),
        "did you mean train?",
        ((*VALIDATE, "--set", "train.lr=1"),),
    ),
    "a misspelt value": (
        (*VALIDATE, "--set", "train.method=backprob"),
        "did you mean backprop?",
        ((*VALIDATE, "--set", "train.method=backprop"),),
    ),
    "a mean alone": (
        (*VALIDATE, "--set", "data.mean=[0.5]"),
        "write std as well",
        ((*VALIDATE, "--set", "data.mean=[0.5]", "--set", "data.std=[0.5]"),),
    ),
    "files without a size": (
        (*VALIDATE, "--set", "data.source=imagefolder"),
        "such as image_size: 64",
        ((*VALIDATE, "--set", "data.source=imagefolder", "--set", "data.image_size=64"),),
    ),
    "a device that is absent": (
        ("train", "digits", "--device", ABSENT, "--set", "train.iterations=1"),
        "use --device auto",
        (("train", "digits", "--device", "auto", "--set", "train.iterations=1"),),
    ),
    "no run": (
        ("select",),
        "train one first: lcprune train RECIPE",
        (("train", "digits", "--set", "train.iterations=1"), ("select", "--max-drop", "100")),
    ),
    "nothing selected": (
        ("export", "run"),
        "choose first with `lcprune select --max-drop 2.0`",
        (("select", "run", "--max-drop", "2.0"), ("export", "run")),
    ),
    "no such exit": (("export", "run", "--exit", "7"), "name one of 1, 2, 3, main", (OF_RUN,)),
    "a range of float32": (
        (*OF_RUN, "--int8-range", "full"),
        "add --precision int8",
        ((*OF_RUN, "--int8-range", "full", "--precision", "int8"),),
    ),
    "a format by its file": (
        (*OF_RUN, "--output", "one.ort"),
        "or another --format",
        ((*OF_RUN, "--output", "one.ort", "--format", "ort"),),
    ),
    "a recipe that is there": (
        ("init", "photos", "--output", "r.yaml"),
        "add --force to replace it, or name another with --output",
        (("init", "photos", "--output", "r.yaml", "--force"), ("init", "photos", "--output", "other.yaml")),
    ),
    "a file that is absent": (
        ("bench", "absent.onnx"),
        "give an .onnx file that `lcprune export` wrote",
        ((*OF_RUN, "--output", "one.onnx"), ("bench", "one.onnx", "--runs", "2")),
    ),
}
"""What is refused, a part of the advice, and the commands that follow it."""


@pytest.mark.usefixtures("photos", "exported_once")
@pytest.mark.parametrize("situation", DONE)
def test_what_is_advised_helps(
    situation: str, run: Path, cli: Callable[..., Any], refused: Callable[..., dict[str, str]]
) -> None:
    words, advice, commands = DONE[situation]
    if words[0] == "select":
        (run.parent / "latest").unlink()
    assert advice in refused(*(str(run) if word == "run" else word for word in words))["fix"]
    for command in commands:
        done = cli(*(str(run) if word == "run" else word for word in command))
        assert done.exit_code == 0, (command, done.stderr)


FILES = ("data.source=imagefolder", "data.image_size=64")
DEEP = "train.method=deep_supervision"
REFUSED: tuple[tuple[str, ...], ...] = (
    ("data.source=imagenet",),
    ("data.image_size=8",),
    ("data.source=manifest", "data.image_size=64"),
    ("data.manifest=images.csv",),
    ("data.workers=2",),
    ("data.mean=[0.5]", "data.std=[0.5]", "data.normalize=imagenet"),
    ("data.augment=resized_crop", "data.crop_scale=[0.5,0.2]"),
    ("data.crop_scale=[0.5,1.0]",),
    ("data.flip=alternating",),
    (*FILES, "data.resize=72"),
    ("data.source=imagenet", "data.image_size=64", "data.stream=never"),
    ("model.trunk=vgg9",),
    ("model.groups=3",),
    ("model.stem=small",),
    ("model.layers=6",),
    ("model.trunk=resnet50", "model.downsample=max_pool"),
    ("model.submodel=1",),
    ("model.submodel=1", "critics.after=[]", "train.method=backprop"),
    ("train.method=backprob",),
    ("train.iteration=5",),
    ("trian.lr=1",),
    ("train.batch_size=8",),
    ("train.lr_drops=0.5",),
    ("train.average=0.5", "train.early_stopping=2"),
    ("train.critic_warmup=2", "train.method=backprop"),
    ("data.image_size=[4,8]",),
    ("data.image_size=[4,8]", DEEP, "model.whiten=true"),
)
"""Overrides of a good recipe that are refused, each with advice that says exactly what to write."""


def _followed(overrides: tuple[str, ...], fix: str) -> tuple[str, ...]:
    """The overrides, changed as the fix of a `RecipeError` says."""
    wrong, *others = sorted(overrides, key=lambda each: each.partition("=")[0].rpartition(".")[2] not in fix)
    section, key = wrong.partition("=")[0].split(".")
    if left_out := re.search(r"leave (?:\w+\.)?(\w+) out", fix):
        return tuple(each for each in overrides if each.partition("=")[0].rpartition(".")[2] != left_out[1])
    if near := re.search(r"did you mean ([\w.]+)\?", fix):
        written = wrong.partition("=")[2]
        exact = {f"{section}.{key}={near[1]}", f"{near[1]}={written}", f"{near[1]}.{key}={written}"}
        return next((each, *others) for each in sorted(exact) if _is_taken((each, *others)))
    if setting := re.search(r"(?:write|set|such as) ([\w.]+): (\[.*?\]|[^\s,]+)(?: instead of (\w+))?", fix):
        name = setting[1] if "." in setting[1] else f"{section}.{setting[1]}"
        gone = (f"{name}=", f"{section}.{setting[3]}=")
        kept = [each for each in overrides if not each.startswith(gone)]
        return (*kept, f"{name}={setting[2]}")
    raise AssertionError(f"what is to be written? {fix}")


def _is_taken(overrides: tuple[str, ...]) -> bool:
    try:
        recipe.load("digits", overrides)
    except errors.RecipeError:
        return False
    return True


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_what_is_advised_about_a_recipe_makes_it_good(overrides: tuple[str, ...]) -> None:
    with pytest.raises(errors.RecipeError) as caught:
        recipe.load("digits", overrides)
    assert _is_taken(_followed(overrides, caught.value.fix)), str(caught.value)


@pytest.mark.slow
def test_the_images_of_a_run_may_move(
    photos: Path,
    cli: Callable[..., Any],
    refused: Callable[..., dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert cli("train", "r.yaml", "--out", "run").exit_code == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    commands = {
        "export": ("export", "../run", "--format", "onnx", "--exit", "1"),
        "resume": ("resume", "../run", "--set", "train.iterations=3"),
        "evaluate": ("evaluate", "../run", "--flip"),
    }
    for words in commands.values():  # of a run that was made in another folder
        assert cli(*words).exit_code == 0, words
    moved = photos.rename(tmp_path / "moved")
    for words in commands.values():
        error = refused(*words)
        assert error["problem"] == f"there is no folder {photos.resolve()}"
        assert error["fix"] == "name the folder of the images: --data-root FOLDER"
        assert cli(*words, "--data-root", moved).exit_code == 0, words
    page = tmp_path / "run" / "report.html"
    assert cli("report", "../run").exit_code == 0
    assert "lcprune report ../run --data-root FOLDER" in page.read_text()
    assert cli("report", "../run", "--data-root", moved).exit_code == 0
    assert "--data-root FOLDER" not in page.read_text()


def test_data_root_wins_over_the_recipe_and_that_over_the_environment(
    photos: Path,
    cli: Callable[..., Any],
    refused: Callable[..., dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LCPRUNE_DATA", str(tmp_path / "absent"))
    assert cli("train", "r.yaml", "--dry-run").exit_code == 0
    error = refused("train", "r.yaml", "--dry-run", "--data-root", "/nonexistent")
    assert error["problem"] == "there is no folder /nonexistent"
    photos.rename(tmp_path / "moved")
    assert cli("train", "r.yaml", "--dry-run", "--data-root", "moved").exit_code == 0
    (tmp_path / "r.yaml").write_text((tmp_path / "r.yaml").read_text().replace("root: photos, ", ""))
    assert refused("train", "r.yaml", "--dry-run")["problem"] == f"there is no folder {tmp_path / 'absent'}"
    monkeypatch.setenv("LCPRUNE_DATA", "moved")
    assert cli("train", "r.yaml", "--dry-run").exit_code == 0
