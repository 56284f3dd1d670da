"""Coverage-guided fuzzing of the readers of untrusted input: recipes, ONNX files and their metadata, images, folders.

    python -m tests.trials.fuzz_readers yaml|metadata|onnx|image|folder [--seconds 300]

Every input must be accepted, or refused with the one kind of error that the command line prints. Anything else ends the
run with exit code 77 and leaves the input in the current folder, as ``crash-*``.
"""

import argparse
import dataclasses
import io
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lcprune", "lcprune_runtime", "ruamel"], enable_loader_override=False):
    from lcprune import recipe
    from lcprune.data.survey import survey
    from lcprune.errors import LcpruneError
    from lcprune.exporters.metadata import attach
    from lcprune_runtime import metadata
    from lcprune_runtime.images import Preparation, read_prepared

import numpy as np
from onnx import TensorProto, helper
from PIL import Image

KEYS = [field.name for field in dataclasses.fields(metadata.ModelInfo)]
INFO = metadata.ModelInfo(
    classes=("cat", "dog"),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    exits=(metadata.ExitInfo("sub-model 1", 0, 100, 10, 50.0, None), metadata.ExitInfo("main", 1, 900, 90)),
    input=metadata.InputInfo(size=8, channels=3),
    recipe_sha256="ab" * 32,
    main_macs=900,
    exit_macs=(110, 910),
    kind="progressive",
    thresholds=(0.5,),
    temperatures=(1.0, 1.0),
)
BEST_S = 5
"""A single input that takes longer is a failure, too."""
MEGABYTES = 2048

ENDS = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("image", "logits")]
MODEL = helper.make_model(
    helper.make_graph([helper.make_node("Identity", ["image"], ["logits"])], "g", ENDS[:1], ENDS[1:])
)
attach(MODEL, INFO)
VALID = {entry.key: entry.value for entry in MODEL.metadata_props}


def attempt(target: str, data: bytes, path: Path) -> None:
    """A recipe, a file (at `path`), a folder, or metadata in which the key that the first byte names is another."""
    if target == "yaml":
        recipe.parse(data.decode("utf-8", "replace"))
    elif target == "onnx":
        path.write_bytes(data)
        metadata.load_model(path)
    elif target == "image":
        path.write_bytes(data)
        for channels in (1, 3):
            read_prepared(path, Preparation(8, channels, shorter_side=9))
    elif target == "folder":
        root = path.with_name("root")
        shutil.rmtree(root, ignore_errors=True)
        plant(root, data)
        survey(root)
    elif data:
        key = metadata.PREFIX + KEYS[data[0] % len(KEYS)]
        metadata.parse({**VALID, key: data[1:].decode("utf-8", "replace")}, "m.onnx")


def plant(root: Path, data: bytes) -> None:
    """A folder of what the lines name: an image, an empty file (e), a folder (d) or a link (l), by the first letter."""
    root.mkdir()
    for line in data.split(b"\n")[:12]:
        parts = [part[:40] for part in line[1:].replace(b"\0", b"").split(b"/") if part not in (b"", b".", b"..")]
        if not parts:
            continue
        path = os.path.join(os.fsencode(root), *parts[:4])
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if line[:1] == b"d":
                os.mkdir(path)
            elif line[:1] == b"l":
                os.symlink(parts[-1], path)
            else:
                with open(path, "wb") as file:
                    file.write(b"" if line[:1] == b"e" else PICTURES[line[0] % len(PICTURES)])
        except OSError:  # a name that is there already
            pass


def pictures() -> list[bytes]:
    """Files of every format and of odd modes, with EXIF."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    colour, grey = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels[..., 0])
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    kinds = [(colour, name) for name in ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")] + [(deep, "PNG"), (deep, "TIFF")]
    kinds += [(Image.fromarray(pixels), name) for name in ("PNG", "WEBP", "TIFF")] + [(colour.quantize(4), "PNG")]
    kinds += [(colour.convert("CMYK"), "JPEG"), (grey.convert("1"), "TIFF"), (grey.convert("LA"), "PNG")]
    files = []
    for image, name in kinds:
        stream = io.BytesIO()
        image.save(stream, format=name, **({"exif": exif} if name in ("PNG", "JPEG", "WEBP", "TIFF") else {}))
        files.append(stream.getvalue())
    return files


PICTURES = pictures()
SEEDS = {
    "yaml": [
        *(text.encode() for text in recipe.shipped().values()),
        b"name: a\ndata: &d {source: digits}\ntrain:\n  <<: *d\n",
    ],
    "metadata": [
        *(bytes([index]) + VALID[metadata.PREFIX + key].encode() for index, key in enumerate(KEYS)),
        bytes([KEYS.index("exits")]) + b'[{"name": 1}]',
    ],
    "onnx": [MODEL.SerializeToString()],
    "image": PICTURES,
    "folder": [
        b"ia/1.png\nib/2.png\nd.hidden\nec/README",
        b"itrain/a/1.png\nitrain/b/1.jpg\nival/a/2\ndtest",
        b"iTrain/cat/1.png\niVal/cat/2.png\nlself\nla/loop.png",
        "icaf\u00e9/1.png\nicafe\u0301/1.png\ni\u65e5\u672c/1.heic".encode(),
    ],
}
"""Valid inputs to start from."""


def main() -> None:
    """Read the command line and fuzz; libFuzzer ends the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=SEEDS)
    parser.add_argument("--seconds", type=int, default=300)
    options = parser.parse_args()
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for index, seed in enumerate(SEEDS[options.target]):
            (corpus / f"seed-{index}").write_bytes(seed)

        def one_input(data: bytes) -> None:
            try:
                attempt(options.target, data, Path(folder) / "m.onnx")
            except LcpruneError as error:
                if not error.problem or not error.fix:
                    raise RuntimeError("an error without a problem or a fix") from error

        limits = [f"-max_total_time={options.seconds}", f"-timeout={BEST_S}", f"-rss_limit_mb={MEGABYTES}"]
        atheris.Setup([sys.argv[0], *limits, "-max_len=4096", "-print_final_stats=1", str(corpus)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
