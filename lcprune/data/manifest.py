"""A table of images: CSV or Parquet with the columns ``path``, ``label`` and, if they are split, ``split``."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcprune.data.files import SPLITS, Listing
from lcprune.errors import DataError, SetupError
from lcprune_runtime.files import Files, check_class_names, unknown_class

_COLUMNS = ("path", "label", "split")
_FIX = "the columns are path, label and, if you like, split (train, val or test)"

Row = Mapping[str, Any]


def read_manifest(path: Path) -> Listing:
    """The files that a table names; paths in it are relative to its folder. Without ``split`` all are training images.

    Classes are the labels of the training images, in alphabetical order, or by value where all are whole numbers.

    Raises:
        DataError: If the table is missing or damaged, lacks a column, or a row makes no sense.
        SetupError: If it is a Parquet file and pyarrow is missing.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}", "name the table as data.manifest, relative to data.root")
    rows = _parquet_rows(path) if path.suffix.lower() in (".parquet", ".pq") else _csv_rows(path)
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in SPLITS}
    first_at: dict[str, tuple[str, str, int]] = {}  # of each file, its split, label and row
    for number, row in enumerate(rows, 1):
        values = (row.get(column) for column in _COLUMNS)
        file, label, split = ("" if value is None else str(value).strip() for value in values)
        split = split or "train"
        if not file or not label or split not in SPLITS:
            raise DataError(f"row {number} of {path} has path {file!r}, label {label!r}, split {split!r}", _FIX)
        file = os.path.normpath(os.path.join(path.parent, file))
        other, other_label, first = first_at.setdefault(file, (split, label, number))
        if other_label != label:
            raise DataError(
                f"row {number} of {path} has {file} as {label}, and row {first} has it as {other_label}",
                "keep one of the two: an image is of one class",
            )
        if other != split:
            raise DataError(
                f"row {number} of {path} has {file} for {split}, and row {first} has it for {other}",
                "keep one of the two: an accuracy on training images says nothing about new ones",
            )
        found[split].append((file, label))
    labels = {label for _, label in found["train"]}
    by_value = all(label.isdecimal() for label in labels)
    classes = tuple(sorted(labels, key=lambda label: (int(label) if by_value else 0, label)))
    if len(classes) < 2:
        raise DataError(f"{path} has {len(classes)} classes of training images", "name images of two classes or more")
    check_class_names(classes, path)
    if unknown := [label for split in SPLITS for _, label in found[split] if label not in labels]:
        raise unknown_class(unknown[0], f"{path}: {unknown[0]}", classes)
    label_of = {name: label for label, name in enumerate(classes)}
    splits = {
        split: Files.of((file for file, _ in rows_of), (label_of[name] for _, name in rows_of))
        for split, rows_of in found.items()
        if rows_of
    }
    return Listing(classes, splits)


def _csv_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            _check_columns(path, reader.fieldnames or ())
            yield from reader
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}", f"write it as UTF-8; {_FIX}") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError:
        raise SetupError(
            f"{path.name} needs pyarrow, which is not installed", "pip install pyarrow, or write the table as CSV"
        ) from None
    try:
        table = parquet.ParquetFile(path)
        names = table.schema_arrow.names
        _check_columns(path, names)
        for batch in table.iter_batches(columns=[name for name in _COLUMNS if name in names]):
            yield from batch.to_pylist()
    except (ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}", _FIX) from None


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if missing := [name for name in ("path", "label") if name not in names]:
        raise DataError(f"{path} has no column {missing[0]} (it has {', '.join(names) or 'none'})", _FIX)
