"""Exits and labels of exported files on emulated processors, compared with this machine: file by processor.

    python -m benchmarks.processors RUN [--images 1000] [--save]

The processors are x86 without VNNI and ARM64 with and without dot products, which qemu emulates
(`tests.trials.processors`), and WebAssembly: onnxruntime-web in Node.js. One file
has 8-bit weights and onnxruntime's own format, in which no session option avoids their overflow: it shows what differs
without 7-bit weights.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import lcprune
from benchmarks.markdown import table
from benchmarks.provenance import RESULTS, Row, provenance, save
from lcprune import runs
from lcprune.pipeline.stored import load_dataset
from lcprune_runtime.criterion import row_scores
from lcprune_runtime.segment_session import open_model
from lcprune_runtime.session import Prediction, to_float
from tests.trials import processors

SEED = 0
FORMS = {
    "fp32": ("--precision", "fp32"),
    "int8": ("--precision", "int8"),
    "int8, .ort": ("--precision", "int8", "--format", "ort"),
    "int8 of 8-bit weights, .ort": ("--precision", "int8", "--int8-range", "full", "--format", "ort"),
}
"""Options of `lcprune export` by the name of a row."""
WEB = Path(__file__).resolve().parents[1] / "examples/web/package.json"
"""Names the onnxruntime-web that is taken."""
HEADER = ("file", "processor", "other exit", "other class", "near a threshold", "logits differ by", "accuracy")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the table, and writes the result file if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run, which gets the exported files")
    parser.add_argument("--images", type=int, default=1000, help="of the test split, the first ones")
    parser.add_argument("--files", nargs="+", choices=FORMS, default=list(FORMS), help="rows of the table")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}/processors.json")
    options = parser.parse_args(arguments)
    folder, recipe = runs.open_run(options.run)
    test = load_dataset(folder, recipe)[0].test
    made = {name: export(folder, index, FORMS[name]) for index, name in enumerate(options.files)}
    files = {name: path for name, path in made.items() if isinstance(path, Path)}
    rows = measure(files, test.images[: options.images], test.labels[: options.images])
    result = {
        **provenance("benchmarks.processors", SEED),
        "recipe": recipe.name,
        "vectors": vectors(),
        "refused": {name: reason for name, reason in made.items() if isinstance(reason, str)},
        "rows": rows,
    }
    print(page(result))
    if options.save:
        save(RESULTS / "processors.json", result, {str(options.run): "RUN"})


def export(run: Path, index: int, words: Sequence[str]) -> Path | str:
    """A progressive model of a run, or why there is none: 8-bit weights may fail the parity check of this machine."""
    suffix = "ort" if "ort" in words else "onnx"
    path = run / "export" / f"processors-{index}.{suffix}"
    done = lcprune("export", str(run), "--progressive", *words, "--output", str(path), allowed=[1])
    return str(done["error"]["problem"]) if "error" in done else path


def measure(files: Mapping[str, Path], images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> list[Row]:
    """What every file does to some images on every processor, this machine first."""
    paths = list(files.values())
    here = processors.predictions(paths, images)
    thresholds = [open_model(path).info.thresholds for path in paths]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processors.arm64_python(folder)
        emulated = {each.name: partial(processors.emulated, each) for each in processors.PROCESSORS}
        places = {"this machine": lambda *_: here, **emulated, "WebAssembly": in_web_assembly}
        for place, predictions in places.items():
            started = time.perf_counter()
            there = predictions(paths, images, folder)
            seconds = round(time.perf_counter() - started, 1)
            for file, mine, its, limits in zip(files, here, there, thresholds, strict=True):
                found = asdict(processors.difference(mine, its, limits))
                accuracy_pct = 100 * float((its.labels == labels).mean())
                row = {"file": file, "processor": place}
                rows.append({**row, **found, "accuracy_pct": accuracy_pct, "seconds_of_all_files": seconds})
    return rows


def in_web_assembly(files: Sequence[Path], images: np.ndarray[Any, Any], folder: Path) -> list[Prediction]:
    """Results of every file in onnxruntime-web, which is installed below `folder`; images ``(N, C, H, W)``."""
    version = json.loads(WEB.read_text(encoding="utf-8"))["dependencies"]["onnxruntime-web"]
    subprocess.run(["npm", "install", "--silent", "--prefix", folder, f"onnxruntime-web@{version}"], check=True)
    to_float(images).tofile(folder / "images.f32")
    script = Path(__file__).with_suffix(".mjs")
    shape = [str(size) for size in images.shape[1:3]]
    subprocess.run(["node", script, folder, *shape, *files], check=True)
    return [prediction(path, json.loads((folder / f"{k}.json").read_text())) for k, path in enumerate(files)]


def prediction(file: Path, answers: Mapping[str, Any]) -> Prediction:
    """Logits and exits of a file as its session gives them."""
    logits, exits = np.array(answers["logits"], np.float32), np.array(answers["exits"])
    info = open_model(file).info
    confidences = row_scores(logits, info.criterion, np.float32(info.temperatures)[exits])[0]
    return Prediction(logits.argmax(axis=1), confidences, exits, logits)


def vectors() -> list[str]:
    """Vector instructions of this machine, as Linux names them."""
    known = Path("/proc/cpuinfo")
    words = known.read_text(encoding="utf-8").split() if known.exists() else []
    return sorted({word for word in words if "avx" in word or "vnni" in word})


def page(result: Mapping[str, Any]) -> str:
    """The table."""
    rows = sorted(result["rows"], key=lambda row: list(FORMS).index(row["file"]))
    cells = [
        (
            *(row["file"], row["processor"], row["exits"], row["labels"], row["near_threshold"]),
            *(f"{row['logits']:.1e}", f"{row['accuracy_pct']:.1f} %"),
        )
        for row in rows
    ]
    here = f"{result['machine']['cpu']} ({', '.join(result['vectors'])})"
    refused = "".join(
        f"\n\nNot exported on that machine, whose products of 8-bit weights overflow: {name} ({why})."
        for name, why in result["refused"].items()
    )
    return (
        f"`{result['recipe']}`, {rows[0]['images']:,} test images: how many take another exit or class than on {here}, "
        "those within 1e-5 of a threshold counted apart; the largest difference of a logit is a part of the largest "
        f"logit.\n\n{table(HEADER, cells)}{refused}"
    )


if __name__ == "__main__":
    main()
