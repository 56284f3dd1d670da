"""Photographs and a pretrained network to an int8 model that stops early, beside the plain way.

    python examples/phone/phone.py PHOTOS --weights mobilenet_v2.safetensors --out FOLDER

PHOTOS has a folder for each class. Every step is a command of lcprune, which is printed before it runs. The plain way
is the same network fine-tuned at the largest size alone, and quantised by onnxruntime's `quantize_static`.
"""

import argparse
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from lcprune import ProgressiveSession
from lcprune_runtime.images import list_images, read_prepared

TEST_SHARE = 0.2
CALIBRATION_IMAGES = 256


def main() -> None:
    """Split the photographs, train both ways, quantise both, and compare them on the test images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path, help="photographs, a folder for each class")
    parser.add_argument("--weights", required=True, help="of the network: a file, or default, which downloads them")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for everything that is made")
    parser.add_argument("--model", default="mobilenet_v2", help="default: mobilenet_v2")
    parser.add_argument("--image-size", default="64,96,128", help="input sizes, the largest last (default: 64,96,128)")
    parser.add_argument("--max-drop", default="1", help="points that int8 may lose by stopping early (default: 1)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe, repeatable")
    options = parser.parse_args()
    split(options.photos, options.out / "photos")
    recipe, keys = options.out / "phone.yaml", [word for key in options.set for word in ("--set", key)]
    network = ("--model", options.model, "--weights", options.weights, "--image-size", options.image_size)
    lcprune("init", options.out / "photos", *network, "--output", recipe)

    ours = options.out / "ours"
    lcprune("train", recipe, "--out", ours, *keys)
    lcprune("select", ours, "--max-drop", "2", allowed=(0, 3))  # 3: nothing smaller is within the budget
    main_file, early = options.out / "main.onnx", options.out / "progressive.onnx"
    lcprune("export", ours, "--exit", "main", "--precision", "int8", "--output", main_file)
    budget = ("--max-drop", options.max_drop)
    lcprune("export", ours, "--progressive", *budget, "--precision", "int8", "--output", early, allowed=(0, 3))

    plain, largest = options.out / "plain", options.image_size.split(",")[-1]
    alone = ("--set", "train.method=backprop", "--set", f"data.image_size={largest}")
    lcprune("train", recipe, "--out", plain, *keys, *alone)
    fp32, int8 = options.out / "plain-fp32.onnx", options.out / "plain-int8.onnx"
    lcprune("export", plain, "--exit", "main", "--output", fp32)
    quantize(fp32, int8, options.out / "photos/train")

    files = [fp32, int8, main_file, *([early] if early.exists() else [])]
    lcprune("bench", *files, "--data", options.out / "photos/test")


def split(photos: Path, folder: Path) -> None:
    """Links to all photographs, ``train/CLASS/image`` and ``test/CLASS/image``; a fifth of each class tests."""
    draws = random.Random(0)
    for of_class in sorted(path for path in photos.iterdir() if path.is_dir()):
        images = list_images(of_class)
        draws.shuffle(images)
        tests = round(TEST_SHARE * len(images))
        for index, image in enumerate(images):
            link = folder / ("test" if index < tests else "train") / of_class.name / image.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(image.resolve())


def lcprune(*words: str | Path, allowed: Sequence[int] = (0,)) -> None:
    """Says a command and runs it; one that fails ends the script."""
    command = ["lcprune", *map(str, words)]
    print(f"\n$ {shlex.join(command)}", flush=True)
    code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
    if code not in allowed:
        sys.exit(code)


def quantize(fp32: Path, int8: Path, images: Path) -> None:
    """The plain way: QDQ, 7-bit weights per channel, which no processor overflows, calibrated on training images."""
    print(f"\nquantize_static: {fp32} to {int8}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(fp32), str(prepared))
        reader = Reader(fp32, images)
        quantization.quantize_static(str(prepared), str(int8), reader, per_channel=True, reduce_range=True)


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Gives photographs one by one, prepared as the model wants them."""

    def __init__(self, model: Path, images: Path) -> None:
        """Some of the `images`, drawn by a fixed seed."""
        paths = list_images(images)
        random.Random(0).shuffle(paths)
        self._paths = iter(paths[:CALIBRATION_IMAGES])
        self._preparation = ProgressiveSession(model).info.input.preparation

    def get_next(self) -> dict[str, Any] | None:
        """The next image, ``(1, C, H, W)`` in 0..1; None after the last."""
        path = next(self._paths, None)
        if path is None:
            return None
        return {"image": read_prepared(path, self._preparation)[None].astype(np.float32) / np.float32(255)}


if __name__ == "__main__":
    main()
