"""The commands of docs/own-images.md, one after the other, on a folder of tiny images."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PAGE = (Path(__file__).resolve().parents[2] / "docs/own-images.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)[1:] for line in re.findall(r"^\$ (lcprune .*)$", PAGE, re.MULTILINE)
]  # of the blocks that show output


def fill(folder: Path, seed: int) -> None:
    """Images of two classes that are told apart by their colour."""
    generator = np.random.default_rng(seed)
    for channel, name in enumerate(("airplane", "cat")):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            pixels = generator.integers(0, 100, (32, 32, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(folder / name / f"{index:05d}.png")


def test_the_page_has_every_step() -> None:
    assert [command[0] for command in COMMANDS] == ["init", "train", "train", "select", "export", "predict"]


@pytest.mark.slow
def test_the_commands_of_the_page(here: Path, cli: Callable[..., Any]) -> None:
    fill(here / "photos", 0)
    fill(here / "new", 1)
    for command in COMMANDS:
        trains = command[0] == "train" and "--dry-run" not in command
        shorter = ["--set", "train.epochs=12", "--set", "model.groups=2"] if trains else []
        if command[0] == "export":  # so few images may hold no exit that pays
            command = [{"--max-drop": "--threshold", "1": "0.9"}.get(word, word) for word in command]
        done = cli(*command, *shorter)
        assert done.exit_code in ((0, 3) if command[0] == "select" else (0,)), (command, done.stderr)
    assert "00011.png" in done.stdout
    with Image.open(here / "sheet.png") as sheet:
        assert sheet.width > 6 * 144
