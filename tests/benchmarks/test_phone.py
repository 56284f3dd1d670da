"""Folds of photographs: disjoint test images, the classes' proportions, and tables that lcprune reads."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.phone import folds, plain
from lcprune.data.manifest import read_manifest

COUNTS = (40, 50, 30)
LABELS = np.repeat(np.arange(3), COUNTS)


def test_quotas_are_the_largest_remainders() -> None:
    assert folds.quotas([403, 501, 410, 594, 482], 0.2) == [81, 100, 82, 119, 96]  # 478 of 2,390
    assert folds.quotas([1, 1, 1], 1 / 3) == [1, 0, 0]


def test_folds_are_disjoint_and_stratified() -> None:
    found = folds.splits(LABELS, 3, seed=0)
    assert all(np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(120)) for parts in found)
    tested = np.concatenate([parts["test"] for parts in found])
    assert len(np.unique(tested)) == len(tested) == 3 * 24
    for parts in found:
        assert np.bincount(LABELS[parts["test"]]).tolist() == [8, 10, 6]
        assert np.bincount(LABELS[parts["val"]]).tolist() == [5, 6, 4]
    again, other = folds.splits(LABELS, 3, seed=0), folds.splits(LABELS, 3, seed=1)
    assert all(np.array_equal(a["val"], b["val"]) for a, b in zip(found, again, strict=True))
    assert not np.array_equal(found[0]["test"], other[0]["test"])


def test_more_folds_than_test_images_are_refused() -> None:
    with pytest.raises(ValueError, match="6 folds"):
        folds.splits(LABELS, 6, seed=0)


def test_a_table_is_what_lcprune_reads(tmp_path: Path) -> None:
    for label, count in (("a", 10), ("b", 20)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (8, 8), number).save(tmp_path / "photos" / label / f"{number}.png")
    tables = folds.write_tables(tmp_path / "photos", tmp_path, 2, seed=0)
    parts = folds.read_parts(tables[1], 4)
    assert {name: part.images.shape for name, part in parts.items()} == {
        name: (count, 3, 4, 4) for name, count in (("train", 20), ("val", 4), ("test", 6))
    }
    listing = read_manifest(tables[1])
    assert listing.classes == ("a", "b")
    for name, part in parts.items():
        assert listing.splits[name].labels.tolist() == part.labels.tolist()
        greys = [int(Path(path).stem) for path in listing.splits[name]]
        assert part.images[:, 0, 0, 0].tolist() == greys


def test_images_are_shifted_by_an_eighth_and_mirrored() -> None:
    images = np.zeros((200, 3, 16, 16), np.uint8)
    images[:, :, 8, 4] = 255
    moved = plain.augmented(images, np.random.default_rng(0))
    rows, columns = np.nonzero(moved[:, 0])[1:]
    assert set(rows.tolist()) == {6, 7, 8, 9, 10}
    assert set(columns.tolist()) == {2, 3, 4, 5, 6} | {9, 10, 11, 12, 13}
