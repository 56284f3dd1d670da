"""`lcprune predict --save-grid`: the picture, and what is said about it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

Cli = Callable[..., Any]
Refused = Callable[..., dict[str, str]]


def test_a_contact_sheet_of_a_folder(run: Path, here: Path, cli: Cli, digit_folder: Path) -> None:
    model = run / "export/progressive.onnx"
    done = cli("predict", model, digit_folder, "--save-grid", "sheet.png", "--columns", "10")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].rstrip() == "contact sheet: sheet.png"
    with Image.open(here / "sheet.png") as sheet:
        assert sheet.width > 10 * 144
    one = next(digit_folder.rglob("*.png"))
    content = json.loads(cli("predict", model, one, "--save-grid", "one.jpg", "--json").stdout)
    assert content["grid"] == "one.jpg"
    with Image.open(here / "one.jpg") as sheet:
        assert sheet.width < 2 * 144


def test_a_contact_sheet_that_cannot_be_written(run: Path, digit_folder: Path, refused: Refused) -> None:
    model = run / "export/progressive.onnx"
    assert "no picture format" in refused("predict", model, digit_folder, "--save-grid", "sheet.doc")["problem"]
    assert (
        "there is no folder" in refused("predict", model, digit_folder, "--save-grid", "nowhere/sheet.png")["problem"]
    )
