"""The whole story of examples/phone, on a few small images with weights that were learned on nothing."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

PHONE = Path(__file__).resolve().parents[2] / "examples/phone/phone.py"
OPTIONS = ("--model", "tiny:net", "--image-size", "16,32", "--max-drop", "50")
SHORT = ("--set", "train.epochs=2", "--set", "data.val_size=12", "--set", "data.test_size=0")
NETWORK = """
from torch import nn

def block(channels, width):
    return nn.Sequential(nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU6())

def net(classes):
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
    return nn.Sequential(block(3, 8), block(8, 8), block(8, 8), head)
"""


def photos(folder: Path) -> None:
    """Thirty images of each of two classes, which differ in colour."""
    draws = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green")):
        (folder / name).mkdir(parents=True)
        for index in range(30):
            pixels = draws.integers(0, 100, (64, 64, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


@pytest.mark.slow
def test_both_ways_end_in_one_table(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "tiny.py").write_text(NETWORK)
    names: dict[str, Any] = {}
    exec(NETWORK, names)
    save_file(names["net"](1000).state_dict(), tmp_path / "weights.safetensors")
    words = ("photos", "--weights", "weights.safetensors", "--out", "out", *OPTIONS, *SHORT)
    done = subprocess.run([sys.executable, PHONE, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("$ lcprune ")]
    assert commands == ["init", "train", "select", "export", "export", "train", "export", "bench"]
    rows = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("out/")]
    assert rows == [f"out/{name}.onnx" for name in ("plain-fp32", "plain-int8", "main", "progressive")]
    splits = {split: len([*(tmp_path / "out/photos" / split).rglob("*.png")]) for split in ("train", "test")}
    assert splits == {"train": 48, "test": 12}
