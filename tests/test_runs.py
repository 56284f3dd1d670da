"""The run folder: names, atomic writes, checksums."""

import fcntl
import json
import os
import signal
import subprocess
import sys
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
    assert error.value.fix.startswith("free the disk")
    assert (here / "a.txt").read_text() == "old"
    assert names(here) == ["a.txt"]


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
    aside = runs.create(recipes.parse(RECIPE), Path("elsewhere/aside"), is_latest=False)
    assert (aside / runs.RECIPE).is_file()
    assert runs.LATEST.resolve() == named.resolve()


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


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that has the lock of a run folder."""
    code = (
        "import sys, time; from pathlib import Path; from lcprune import runs\n"
        "with runs.lock(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_lock_keeps_other_processes_out_and_dies_with_its_own(folder: Path) -> None:
    with hold(folder) as process:
        with pytest.raises(RunError, match="another process is training in runs/mine-1") as error, runs.lock(folder):
            pass
        process.kill()
    assert "--out another folder" in error.value.fix
    with runs.lock(folder):
        assert names(folder) == ["checkpoints", "recipe.yaml"]  # no file is left behind
    with runs.lock(folder):
        pass


def test_a_forked_process_does_not_keep_the_lock(folder: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from lcprune import runs\n"
        "with runs.lock(Path(sys.argv[1])):\n"
        "    child = os.fork()\n"
        "    if child: time.sleep(60)\n"
        "    print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    with runs.lock(folder):  # the child lives still
        os.kill(child, signal.SIGKILL)
    parent.stdout.close()


def test_a_file_system_without_locks_keeps_nobody_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with runs.lock(folder), runs.lock(folder):
        pass


def test_a_folder_in_which_a_training_died_before_it_was_a_run_is_taken_again(here: Path) -> None:
    def die(folder: Path) -> None:
        runs.write_text(folder / runs.ENVIRONMENT, "{}")
        raise MemoryError

    with pytest.raises(MemoryError):
        runs.create(recipes.parse(RECIPE), here / "mine", die)
    (here / "mine" / "recipe.yaml.part").write_text("na")
    assert runs.create(recipes.parse(RECIPE), here / "mine") == here / "mine"
    (here / "other" / "checkpoints").mkdir(parents=True)
    (here / "other" / "checkpoints" / "last.pt").write_text("")
    with pytest.raises(RunError, match="holds something"):
        runs.create(recipes.parse(RECIPE), here / "other")


def test_a_folder_that_cannot_be_flushed_is_no_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fsync

    def fsync(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(22, "Invalid argument")
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    runs.write_text(here / "a.txt", "new")
    assert (here / "a.txt").read_text() == "new"


def test_what_was_made_from_another_file_is_refused(folder: Path) -> None:
    for name in (runs.WEIGHTS, runs.SELECTION):
        runs.write_text(folder / name, name)
    runs.record(folder, runs.WEIGHTS)
    runs.record(folder, runs.SELECTION, made_from=[runs.WEIGHTS, "absent.json"])
    assert runs.require(folder, runs.SELECTION, "lcprune select") == folder / runs.SELECTION
    assert json.loads((folder / runs.MANIFEST).read_text())[runs.MADE_FROM] == {
        runs.SELECTION: {runs.WEIGHTS: runs.sha256(folder / runs.WEIGHTS)}
    }
    runs.write_text(folder / runs.WEIGHTS, "others")
    runs.record(folder, runs.WEIGHTS)
    with pytest.raises(RunError) as error:
        runs.require(folder, runs.SELECTION, "lcprune select")
    assert error.value.problem == (
        "runs/mine-1/selection.json does not belong to the weights.safetensors that is there now: "
        "it was made from another"
    )
    assert error.value.fix == "make it again: lcprune select"
    assert runs.recorded_files(folder) == [runs.SELECTION, runs.WEIGHTS]
    runs.record(folder, runs.SELECTION)  # an older version records no sources: then nothing is checked
    assert runs.require(folder, runs.SELECTION, "lcprune select")
    runs.record(folder, runs.SELECTION, made_from=[runs.WEIGHTS])
    runs.remove(folder, runs.SELECTION)
    assert runs.MADE_FROM not in json.loads((folder / runs.MANIFEST).read_text())


def test_an_exported_file_that_changed_is_refused_where_it_is_read(folder: Path) -> None:
    (folder / "export").mkdir()
    path = folder / "export" / "a.onnx"
    path.write_bytes(b"abc")
    runs.check_exported(path)  # nothing is recorded
    runs.record(folder, "export/a.onnx")
    runs.check_exported(path)
    path.write_bytes(b"abd")
    with pytest.raises(RunError, match=r"a\.onnx is not what was written"):
        runs.check_exported(path)
    runs.check_exported(folder.parent / "elsewhere.onnx")
