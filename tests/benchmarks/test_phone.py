"""Folds of photographs that are disjoint and stratified, and figures that are pooled over them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.phone import folds, network, ours, page, plain, pooled, result
from lcprune import recipe
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


def right(*values: int) -> np.ndarray:
    return np.array(values, float)


def test_a_difference_has_the_error_of_the_pairs() -> None:
    found = pooled.difference(right(1, 1, 1, 0), right(1, 0, 1, 0))
    assert found == {"points": 25.0, "points_se": pytest.approx(25.0)}  # deviation 0.5 of (0, 1, 0, 0), over sqrt(4)
    assert pooled.difference(right(1, 0), right(1, 0)) == {"points": 0.0, "points_se": 0.0}
    with pytest.raises(ValueError, match="not the same images"):
        pooled.difference(right(1, 0), right(1, 0, 1))


def a_file(correct: list[int], ms: float, val: list[int] | None = None) -> dict[str, Any]:
    split = {"ms": ms, "rounds_ms": [ms, 2 * ms], "exit_fractions": [1.0]}
    return {
        "size_bytes": round(1000 * ms),
        "val": {"correct": val or correct, **split},
        "test": {"correct": correct, **split},
    }


@pytest.fixture
def both_folds() -> list[dict[str, Any]]:
    """Two folds of two images; the largest plain network is in the first alone."""
    first = {
        "plain 64 px, int8": a_file([1, 0], 1.0),
        "plain 128 px, int8": a_file([1, 1], 4.0),
        "plain 192 px, int8": a_file([1, 1], 9.0),
        "both: sub-model 1 at 64 px, int8": a_file([0, 1], 0.5),
        "both: main at 128 px, int8": a_file([1, 1], 4.5),
        "both: progressive 1, int8": a_file([1, 1], 2.0),
        "both: progressive 3, int8": a_file([1, 0], 1.0),
    }
    second = {
        "plain 64 px, int8": a_file([1, 0], 1.0),
        "plain 128 px, int8": a_file([0, 1], 4.0),
        "both: main at 128 px, int8": a_file([1, 1], 4.5),
        "both: progressive 1, int8": a_file([1, 1], 4.0),
        "both: progressive 3, int8": a_file([0, 1], 1.0),
    }
    expected = {
        "both: main at 128 px, int8": 90.0,
        "both: progressive 1, int8": 89.0,
        "both: progressive 3, int8": 87.0,
    }
    plain_s = [{"size": 64, "cpu_s": 10.0}, {"size": 128, "cpu_s": 40.0}]
    ours_s = [{"variant": "both", "cpu_s": 45.0}]
    more = {"plain": plain_s, "ours": ours_s}
    return [
        {"files": first, "expected_pct": {**expected, "both: sub-model 1 at 64 px, int8": 50.0}, **more},
        {"files": second, "expected_pct": expected, **more},
    ]


def test_files_are_pooled_over_the_folds_that_have_them(both_folds: list[dict[str, Any]]) -> None:
    rows = {row["name"]: row for row in result.rows(both_folds)}
    assert "both: sub-model 1 at 64 px, int8" not in rows
    assert (rows["plain 192 px, int8"]["folds"], rows["plain 192 px, int8"]["images"]) == (1, 2)
    progressive = rows["both: progressive 1, int8"]
    assert (progressive["test_accuracy_pct"], progressive["latency_ms"], progressive["size_bytes"]) == (100, 3.0, 3000)
    assert [name for name, row in rows.items() if row["way"] == "plain" and row["on_frontier"]] == [
        *("plain 64 px, int8", "plain 128 px, int8", "plain 192 px, int8")
    ]
    assert rows["both: main at 128 px, int8"]["on_frontier"]  # of the sub-models


def test_ours_are_chosen_by_validation(both_folds: list[dict[str, Any]]) -> None:
    rows = {row["plain"]: row for row in result.against_plain(both_folds)}
    assert rows["plain 64 px, int8"]["ours"] == ["both: progressive 3, int8"]
    row = rows["plain 128 px, int8"]
    assert row["ours"] == ["both: progressive 1, int8"]
    assert (row["points"], row["latency"]["ratio"], row["folds"]) == (25.0, 0.75, 2)
    assert row["points_se"] == pytest.approx(25.0)
    assert rows["plain 192 px, int8"]["ours"] == ["both: main at 128 px, int8"]
    both_folds[1]["files"]["plain 128 px, int8"]["val"]["correct"] = [1] * 87 + [0] * 13
    row = result.at_plain_accuracy(both_folds)  # 100 % on the first fold's is out of reach: the most accurate
    assert row["ours"] == ["both: progressive 1, int8", "both: progressive 3, int8"]
    assert row["latency_ms"] == 1.5


def test_progressive_models_are_held_against_main_of_their_run(both_folds: list[dict[str, Any]]) -> None:
    rows = {row["name"]: row for row in result.against_main(both_folds)}
    assert rows["both: progressive 3, int8"]["theirs"] == ["both: main at 128 px, int8"]
    assert rows["both: progressive 3, int8"]["points"] == -50.0
    whole = result.result(both_folds)
    assert whole["images"] == {"folds": 2, "test": 4}
    assert whole["training"] == {"plain_cpu_s": {"64": 10.0, "128": 40.0}, "ours_cpu_s": {"both": 45.0}}


def test_the_recipe_is_as_the_plain_loop() -> None:
    loaded = recipe.load(ours.RECIPE, ["data.image_size=128"])
    train, data = loaded.train, loaded.data
    assert (train.epochs, train.lr, train.weight_decay) == (plain.EPOCHS, plain.LR, plain.WEIGHT_DECAY)
    assert (train.label_smoothing, data.batch_size, data.pad) == (plain.SMOOTHING, plain.BATCH, 128 // plain.SHIFT)
    assert data.mean == pytest.approx([network.MEAN] * 3)
    assert data.std == pytest.approx([network.STD] * 3)


def test_the_page_and_the_figure_need_the_result_alone(both_folds: list[dict[str, Any]], tmp_path: Path) -> None:
    about = {"rounds": 2, "machine": {"cpu": "a CPU"}, "versions": {"onnxruntime": "1"}}
    found = {**about, **result.result(both_folds)}
    text = page.page(found)
    assert "| ours: progressive 1, int8 | 2 | 100.0 ± 0.0 | 3.00 | 0.75 | 3 |" in text
    assert "| depth and sizes | 3 | 2 | 50.0 | 1.00 | -50.0 ± 28.9 | 0.22 (0.22 to 0.22) | 0.22 |" in text
    assert "at 64, 96 and 128 px 50 s. Ours: depth and sizes 45 s (0.90 of it)." in text
    page.draw(found["rows"], tmp_path / "phone.svg")
    assert "mean latency in int8" in (tmp_path / "phone.svg").read_text(encoding="utf-8")
