"""Classify every image in a folder and the folders below it, into a CSV file.

    python examples/python/classify_folder.py MODEL.onnx FOLDER --output results.csv
        [--threshold T ...] [--batch-size 64] [--on-bad-image stop|skip]

A row for each image: `file` (from FOLDER on), `class`, `confidence`, `exit`, `macs_ratio` (what the image cost, as a
share of main) and `error`, which says what is wrong with an image that could not be read. Needs no torch.
"""

import argparse
import contextlib
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lcprune import ProgressiveSession
from lcprune.errors import DataError, LcpruneError
from lcprune_runtime.images import list_images, read_prepared

COLUMNS = ("file", "class", "confidence", "exit", "macs_ratio", "error")

Row = dict[str, str]


def main() -> int:
    """Read the command line, classify, and say how it went; gives the exit code."""
    arguments = parse()
    thresholds = (
        arguments.threshold[0] if arguments.threshold and len(arguments.threshold) == 1 else arguments.threshold
    )
    try:
        paths = list_images(arguments.folder)
        if not paths:
            raise DataError(f"{arguments.folder} holds no images", "name a folder that holds some")
        session = ProgressiveSession(arguments.model, thresholds=thresholds)
        batches = [paths[start : start + arguments.batch_size] for start in range(0, len(paths), arguments.batch_size)]
        rows = (row for batch in batches for row in classify(session, batch, arguments.folder, arguments.on_bad_image))
        bad = write_whole(rows, arguments.output)
    except LcpruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.output}: {len(paths)} images, {bad} of them could not be read")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Classify every image in a folder, into a CSV file.")
    parser.add_argument("model", type=Path, help="what `lcprune export` wrote")
    parser.add_argument("folder", type=Path, help="with the images; folders below it are taken too")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file; replaced where it exists")
    parser.add_argument(
        "--threshold", type=float, nargs="+", metavar="T", help="one for each early exit, or one for all"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images that are read and classified together")
    parser.add_argument("--on-bad-image", choices=("stop", "skip"), default="stop", help="default: stop")
    arguments = parser.parse_args()
    if arguments.batch_size < 1:
        parser.error("--batch-size must be 1 or more")
    return arguments


def classify(session: ProgressiveSession, paths: Sequence[Path], folder: Path, on_bad_image: str) -> Iterator[Row]:
    """A row for each image, in the order of `paths`.

    Raises:
        DataError: If an image cannot be read and `on_bad_image` is ``stop``.
    """
    info = session.info
    errors: dict[Path, str] = {}
    pixels = {}
    for path in paths:
        try:
            pixels[path] = read_prepared(path, info.input.preparation)
        except DataError as error:
            if on_bad_image == "stop":
                raise
            errors[path] = error.problem
    found = {}
    if pixels:
        labels, confidences, exits = session(np.stack(list(pixels.values())))
        found = dict(zip(pixels, zip(labels, confidences, exits, strict=True), strict=True))
    for path in paths:
        row = dict.fromkeys(COLUMNS, "") | {"file": path.relative_to(folder).as_posix(), "error": errors.get(path, "")}
        if path in found:
            label, confidence, index = found[path]
            row |= {
                "class": info.classes[label],
                "confidence": f"{confidence:.6f}",
                "exit": info.exits[index].name,
                "macs_ratio": f"{info.exit_macs[index] / info.main_macs:.6f}",
            }
        yield row


def write_whole(rows: Iterator[Row], output: Path) -> int:
    """Writes the CSV file and gives the number of errors in it; where `rows` stop half-way, no file is left.

    Raises:
        DataError: If the file cannot be written.
    """
    part = output.with_name(output.name + ".part")
    bad = 0
    try:
        # surrogateescape: names of files may be no UTF-8, and shall be found again
        with part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for row in rows:
                writer.writerow(row)
                bad += bool(row["error"])
        part.replace(output)
    except OSError as error:
        raise DataError(
            f"{output} cannot be written: {error.strerror}", "name a writable place with --output"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
