"""Put a progressive model where the page of this folder finds it.

    python examples/web/prepare.py RUN_OR_MODEL [--samples IMAGE ...] [--out FOLDER]

The model must take its thresholds as an input that is fed (`lcprune export --progressive --threshold-input required`):
onnxruntime-web cannot override a default. It does not show a model's metadata either, so they are written beside the
copy as model.json. Sample images are copied for the page's buttons; for a model of the embedded digits they are ten of
its test images. Every file that was written is printed.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from lcprune.data.sources import read_digits
from lcprune.errors import DataError, LcpruneError, OnnxModelError
from lcprune_runtime.images import list_images, read_prepared
from lcprune_runtime.metadata import ModelInfo, load_model
from lcprune_runtime.session import open_session

MODEL = "model.onnx"
INFO = "model.json"
BROWSERS_READ = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})
MOST_SAMPLES = 24


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description="Put a progressive model where the page of this folder finds it.")
    parser.add_argument("model", type=Path, help="a run folder, or an .onnx file")
    parser.add_argument("--samples", type=Path, nargs="+", default=[], help="images, or folders of them, for buttons")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "public" / "model", help="made if missing")
    arguments = parser.parse_args()
    try:
        for path in prepare(arguments.model, arguments.samples, arguments.out):
            print(path)
    except LcpruneError as error:
        raise SystemExit(f"error: {error}") from None


def prepare(run_or_model: Path, samples: Sequence[Path], out: Path) -> list[Path]:
    """Copy a model, what it says about itself, and samples to the folder `out`; returns the files.

    Raises:
        OnnxModelError: If it is no progressive model of ours whose thresholds are fed.
        DataError: If a sample cannot be read by the model or by a browser.
    """
    path = run_or_model / "export" / "progressive.onnx" if run_or_model.is_dir() else run_or_model
    info = read_fed_model(path)
    images = sample_files(samples, info)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("sample-*"):
        old.unlink()
    written = [out / MODEL, out / INFO]
    shutil.copyfile(path, out / MODEL)
    entries = []
    if images:
        for index, image in enumerate(images):
            written.append(out / f"sample-{index:02d}{image.suffix.lower()}")
            shutil.copyfile(image, written[-1])
            entries.append({"file": written[-1].name, "title": image.stem})
    elif is_of_digits(info):
        written += write_digits(out)
        entries = [{"file": image.name, "title": f"Sample {image.stem[-1]}"} for image in written[2:]]
    content = {"file": MODEL, **asdict(info), "samples": entries}
    (out / INFO).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return written


def read_fed_model(path: Path) -> ModelInfo:
    """The metadata of a progressive model that takes `threshold` as a plain input.

    Raises:
        OnnxModelError: If it is another file.
    """
    content, info = load_model(path)
    if "threshold" not in {entry.name for entry in open_session(content, path.name).get_inputs()}:
        what = "has thresholds that a browser cannot feed" if info.kind == "progressive" else "has one exit"
        raise OnnxModelError(
            f"{path} {what}",
            "export the run with: lcprune export RUN --progressive --threshold-input required --output web.onnx",
        )
    return info


def sample_files(samples: Sequence[Path], info: ModelInfo) -> list[Path]:
    """The images among `samples` and in the folders among them, at most 24, spread evenly.

    Raises:
        DataError: If there is none, or one cannot be read here or in a browser.
    """
    found: list[Path] = []
    for path in samples:
        found += [image for image in list_images(path) if is_for_browsers(image)] if path.is_dir() else [path]
    if samples and not found:
        raise DataError("there are no images among the samples", "name PNG or JPEG files, or folders of them")
    if len(found) > MOST_SAMPLES:
        found = [found[int(index)] for index in np.linspace(0, len(found) - 1, MOST_SAMPLES)]
    for image in found:
        if not is_for_browsers(image):
            raise DataError(f"browsers cannot show {image}", "name PNG, JPEG, WebP, GIF or BMP files")
        read_prepared(image, info.input.preparation)
    return found


def is_for_browsers(image: Path) -> bool:
    """Told by the suffix."""
    return image.suffix.lower() in BROWSERS_READ


def is_of_digits(info: ModelInfo) -> bool:
    """Whether the model was trained on what the package has embedded."""
    return (info.input.size, info.input.channels) == (8, 1) and info.classes == tuple("0123456789")


def write_digits(out: Path) -> list[Path]:
    """The first test image of every digit, as PNG."""
    _, test = read_digits()
    paths = []
    for digit in range(10):
        paths.append(out / f"sample-{digit}.png")
        Image.fromarray(test.images[np.flatnonzero(test.labels == digit)[0], 0]).save(paths[-1])
    return paths


if __name__ == "__main__":
    main()
