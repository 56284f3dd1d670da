"""The run folder: names, atomic writes, checksums."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.errors import RecipeError, RunError

RECIPE = "name: mine\ndata: {source: digits}\ntrain: {iterations: 1}\n"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(here: Path) -> Path:
    """A new run."""
    return runs.create(recipes.parse(RECIPE), None)


def test_a_file_is_written_whole(here: Path) -> None:
    runs.write_json(here / "a.json", {"a": [1, 2]})
    assert (here / "a.json").read_text() == '{\n  "a": [\n    1,\n    2\n  ]\n}\n'
    assert runs.read_json(here / "a.json") == {"a": [1, 2]}
    assert names(here) == ["a.json"]


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, ValueError])
def test_or_not_at_all(here: Path, error: type[BaseException]) -> None:
    runs.write_text(here / "a.txt", "old")

    def write() -> None:
        with runs.atomic_write(here / "a.txt") as part:
            part.write_text("new, but not wh")
            raise error

    with pytest.raises(error):
        write()
    assert (here / "a.txt").read_text() == "old"
    assert names(here) == ["a.txt"]


def test_a_full_disk_keeps_the_old_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.write_text(here / "a.txt", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="a.txt cannot be written: No space left on device") as error:
        runs.write_text(here / "a.txt", "new")
    assert error.value.fix == "free the disk or choose another folder"
    assert (here / "a.txt").read_text() == "old"
    assert names(here) == ["a.txt"]


def test_a_file_in_place_of_the_folder(here: Path) -> None:
    (here / "file").write_text("")
    with pytest.raises(RunError, match="file/a.txt cannot be written: Not a directory"):
        runs.write_text(here / "file" / "a.txt", "new")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_damaged_json_file(here: Path, content: bytes) -> None:
    (here / "a.json").write_bytes(content)
    with pytest.raises(RunError, match="a.json is damaged"):
        runs.read_json(here / "a.json")


def test_runs_are_numbered_and_the_newest_is_latest(folder: Path) -> None:
    assert folder == Path("runs/mine-1")
    assert names(folder) == ["checkpoints", "recipe.yaml"]
    assert Path("runs/latest").readlink() == Path("mine-1")
    second = runs.create(recipes.parse(RECIPE), None)
    assert second == Path("runs/mine-2")
    named = runs.create(recipes.parse(RECIPE), Path("elsewhere/run"))
    assert runs.LATEST.resolve() == named.resolve()
    assert names(Path("runs")) == ["latest", "mine-1", "mine-2"]


def test_a_folder_that_is_empty_is_taken(here: Path) -> None:
    (here / "mine").mkdir()
    assert runs.create(recipes.parse(RECIPE), here / "mine") == here / "mine"
    with pytest.raises(RunError, match="holds something"):
        runs.create(recipes.parse(RECIPE), here / "mine")


def test_a_run_is_opened_with_its_recipe(folder: Path) -> None:
    assert runs.open_run(folder) == (folder, recipes.parse(RECIPE))
    assert runs.open_run(Path("runs/latest")) == (folder.resolve(), recipes.parse(RECIPE))


def test_a_damaged_recipe_names_its_file(folder: Path) -> None:
    (folder / runs.RECIPE).write_text(RECIPE + "trian: 1\n")
    with pytest.raises(RecipeError, match=r"runs/mine-1/recipe\.yaml, line 4: unknown key trian"):
        runs.open_run(folder)


def test_the_manifest_knows_what_was_recorded(folder: Path) -> None:
    assert (runs.recorded_files(folder), runs.changed_files(folder)) == ([], [])
    for name in ("b.txt", "a.txt", "c.txt"):
        runs.write_text(folder / name, name)
    runs.record(folder, "b.txt", "a.txt")
    runs.record(folder, "c.txt")
    written = json.loads((folder / runs.MANIFEST).read_text())
    assert list(written) == ["a.txt", "b.txt", "c.txt"]
    assert all(len(value) == 64 for value in written.values())
    assert runs.changed_files(folder) == []
    runs.write_text(folder / "a.txt", "changed")
    (folder / "b.txt").unlink()
    assert runs.changed_files(folder) == ["a.txt", "b.txt"]
    runs.remove(folder, "a.txt", "b.txt", "never there")
    assert runs.recorded_files(folder) == ["c.txt"]
    assert not (folder / "a.txt").exists()
    assert runs.changed_files(folder) == []


def test_the_sha256_is_the_one_of_the_standard(here: Path) -> None:
    (here / "abc").write_bytes(b"abc")  # FIPS 180-4, example B.1
    assert runs.sha256(here / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_required_file(folder: Path) -> None:
    with pytest.raises(RunError, match="runs/mine-1 has no a.txt") as error:
        runs.require(folder, "a.txt", "lcprune make-it")
    assert error.value.fix == "run this first: lcprune make-it"
    runs.write_text(folder / "a.txt", "a")
    assert runs.require(folder, "a.txt", "lcprune make-it") == folder / "a.txt"  # nothing is recorded of it
    runs.record(folder, "a.txt")
    runs.write_text(folder / "a.txt", "b")
    with pytest.raises(RunError, match="its SHA-256 has changed") as error:
        runs.require(folder, "a.txt", "lcprune make-it")
    assert error.value.fix == "restore it, or run: lcprune make-it"


@pytest.mark.parametrize("content", ["[]", "null", "3"])
def test_a_damaged_manifest(folder: Path, content: str) -> None:
    (folder / runs.MANIFEST).write_text(content)
    with pytest.raises(RunError, match=r"manifest\.json is damaged"):
        runs.recorded_files(folder)


def test_predictions_come_back_as_they_were(folder: Path) -> None:
    arrays = {"val_logits": np.arange(12, dtype=np.float32).reshape(2, 3, 2), "val_labels": np.array([0, 1, 0])}
    runs.write_predictions(folder, arrays)
    back = runs.read_predictions(folder)
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[name], arrays[name]) and back[name].dtype == arrays[name].dtype for name in arrays)
    first = (folder / runs.PREDICTIONS).read_bytes()
    runs.write_predictions(folder, arrays)
    assert (folder / runs.PREDICTIONS).read_bytes() == first  # the same bytes at any time of the day


def test_the_logits_of_other_splits_are_left_alone(folder: Path) -> None:
    logits, labels = np.arange(12, dtype=np.float32).reshape(2, 3, 2), np.array([0, 1, 0])
    runs.write_predictions(
        folder, {"val_logits": logits, "val_labels": labels, "test_logits": -logits, "test_labels": labels}
    )
    back = runs.read_predictions(folder, ["test"])
    assert back.keys() == {"val_labels", "test_logits", "test_labels"}
    np.testing.assert_array_equal(back["test_logits"], -logits)


def test_compressed_predictions_of_older_runs_are_read(folder: Path) -> None:
    np.savez_compressed(folder / runs.PREDICTIONS, val_labels=np.array([3, 1]))
    assert runs.read_predictions(folder)["val_labels"].tolist() == [3, 1]


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_damaged_predictions(folder: Path, cut: int) -> None:
    runs.write_predictions(folder, {"val_labels": np.arange(100)})
    path = folder / runs.PREDICTIONS
    path.write_bytes(path.read_bytes()[:cut])
    runs.record(folder, runs.PREDICTIONS)
    with pytest.raises(RunError, match=r"predictions\.npz is damaged") as error:
        runs.read_predictions(folder)
    assert error.value.fix == "run this, which writes it again: lcprune resume runs/mine-1"
