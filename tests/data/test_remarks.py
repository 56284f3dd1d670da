import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcprune.data.files import list_folder
from lcprune.data.remarks import darkness, layout_remarks, split_meant


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Train", "train"),
        ("training_set", "train"),
        ("TrainData", "train"),
        ("train2017", "train"),
        ("images_test", "test"),
        ("Test Set", "test"),
        ("valid", "val"),
        ("Validation-Images", "val"),
        ("trains", None),
        ("dataset", None),
        ("valley", None),
        ("test tube", None),
    ],
)
def test_folders_that_may_be_splits(name: str, split: str | None) -> None:
    assert split_meant(name) == split


def test_a_class_of_folders_and_classes_that_differ_in_capitals_are_told(tmp_path: Path) -> None:
    for name in ("Train/cat", "Train/dog", "A", "a", "b/only"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").touch()
    assert [*layout_remarks(tmp_path)] == [
        f"{tmp_path / 'Train'} is taken for a class: if it is the train split, call it train",
        f"{tmp_path / 'Train'} holds no images itself, but folders (cat, dog): all are of the class Train",
        f"the classes A and a of {tmp_path} differ only in capitals",
    ]


def test_a_file_system_without_case_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of macOS and Windows, where a folder ``Train`` is found by the name ``train``, too."""
    for name in ("Train/cat", "Train/dog", "VAL/cat", "VAL/dog"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").touch()
    here = list_folder(tmp_path)
    told = [*layout_remarks(tmp_path)]
    assert here.classes == ("Train", "VAL")
    assert told[0] == f"{tmp_path / 'Train'} is taken for a class: if it is the train split, call it train"

    def is_dir(path: Path) -> bool:
        names = (name.casefold() for name in os.listdir(path.parent))
        return os.path.isdir(path) or path.name.casefold() in names

    monkeypatch.setattr(Path, "is_dir", is_dir)
    assert (tmp_path / "train").is_dir()
    assert list_folder(tmp_path).classes == here.classes
    assert [*layout_remarks(tmp_path)] == told


def test_images_without_a_bright_pixel_are_told() -> None:
    images = np.full((100, 1, 4, 4), 15, dtype=np.uint8)
    assert darkness(images) == (
        "no training image looked at has a pixel above 15 of 255: 16 levels are left of what they hold; if that is 12 "
        "bits in 16, scale them to all 16"
    )
    images[99] = 64
    assert darkness(images) is None


def test_training_says_what_it_guesses(here: Path, cli: Callable[..., Any]) -> None:
    draw = np.random.default_rng(0)
    for split in ("Train", "Val"):
        for index in range(6):
            path = here / "photos" / split / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 4096, (8, 8)).astype(np.uint16)).save(path)
    (here / "a.yaml").write_text(
        "name: a\ndata: {source: imagefolder, root: photos, image_size: 16, val_size: 4, batch_size: 4}\n"
        "model: {width: 0.0625}\ntrain: {iterations: 1}\n"
    )
    done = cli("train", "a.yaml", "--out", "run")
    assert done.exit_code == 0, done.output
    assert "photos/Train is taken for a class: if it is the train split, call it train" in done.stderr
    assert "no training image looked at has a pixel above 15 of 255" in done.stderr


def test_training_on_a_table_says_which_image_is_in_two_splits(here: Path, cli: Callable[..., Any]) -> None:
    draw, rows = np.random.default_rng(0), ["path,label,split"]
    for index in range(8):
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(here / f"{index}.png")
        rows.append(f"{index}.png,{'aA'[index % 2]},train")
    (here / "copy.png").write_bytes((here / "0.png").read_bytes())
    (here / "t.csv").write_text("\n".join([*rows, "copy.png,a,val"]))
    (here / "a.yaml").write_text(
        "name: a\ndata: {source: manifest, manifest: t.csv, root: ., image_size: 16, batch_size: 4}\n"
        "model: {width: 0.0625}\ntrain: {iterations: 1}\n"
    )
    done = cli("train", "a.yaml", "--out", "run")
    assert done.exit_code == 0, done.output
    leak = f"1 ({here.resolve() / '0.png'} = {here.resolve() / 'copy.png'})"
    assert f"the classes A and a of {here.resolve() / 't.csv'} differ only in capitals" in done.stderr
    assert f"images in more than one split, which makes the accuracy there too high: {leak}" in done.stderr
