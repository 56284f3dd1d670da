"""Train a network of your own with local critics: any module, cut into layer groups by name.

    python examples/own_model.py [--iterations 60]

trains `build` of this file on the embedded digits into runs/own-model and writes it as one ONNX file that stops early.
In a recipe the trunk is called ``own_model:build``; lcprune looks for own_model.py in the folder where it runs.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from torch import Tensor, nn

RECIPE = """\
name: own-model
data: {source: digits, batch_size: 32, val_size: 200}
model: {trunk: "own_model:build", cuts: [block1, block2]}
critics: {head: pooled, channels: 8, lr: 0.001}
train: {iterations: 60, lr: 0.02, checkpoint_every: 60}
"""


class Block(nn.Module):
    """Two convolutions with a skip connection around them: no cut can go between the two."""

    def __init__(self, in_channels: int, channels: int) -> None:
        """Channels before and after; the size halves."""
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to half the height and width."""
        hidden = self.relu(self.first(x))
        return self.relu(hidden + self.second(hidden))


class Net(nn.Module):
    """Three blocks and a classifier."""

    def __init__(self, in_channels: int, classes: int) -> None:
        """Channels of an image, and the number of logits."""
        super().__init__()
        self.block1, self.block2, self.block3 = Block(in_channels, 16), Block(16, 32), Block(32, 64)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return self.head(self.block3(self.block2(self.block1(x))).mean((2, 3)))


def build(classes: int, image_shape: tuple[int, int, int]) -> Net:
    """What the recipe names. `image_shape` ``(C, H, W)`` may be left out of the arguments."""
    return Net(image_shape[0], classes)


def main() -> None:
    """Train, export, and name every file that was written."""
    parser = argparse.ArgumentParser(description="Train a network of your own with local critics.")
    parser.add_argument("--iterations", type=int, default=60)
    arguments = parser.parse_args()
    Path("own_model.yaml").write_text(RECIPE, encoding="utf-8")
    lcprune("train", "own_model.yaml", "--out", "runs/own-model", "--set", f"train.iterations={arguments.iterations}")
    lcprune("export", "runs/own-model", "--progressive", "--threshold", "0.9")
    print("\n".join(sorted(path.as_posix() for path in Path().rglob("*") if path.is_file())))


def lcprune(*arguments: str) -> None:
    """Run a command in a process of its own, which finds this file wherever it runs."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-m", "lcprune", *arguments, "--quiet"], env=environment, check=True)


if __name__ == "__main__":
    main()
