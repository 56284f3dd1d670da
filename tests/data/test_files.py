import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lcprune.data.files import list_folder, train_folder
from lcprune.data.survey import survey
from lcprune.errors import DataError
from lcprune_runtime.files import Files, class_names, list_classes, scan


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_files_come_in_the_order_of_their_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a/z.png", "a-b/y.JPG", "a/deep/x.png", ".hidden/w.png", "a/.v.png", "a/u.txt")
    found = [Path(path).relative_to(tmp_path).as_posix() for path in scan(tmp_path)]
    assert found == ["a/deep/x.png", "a/z.png", "a-b/y.JPG"]  # as Path sorts, not as text does


def test_a_link_to_a_file_counts_and_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "real/x.png")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "y.png").symlink_to(tmp_path / "real" / "x.png")
    (tmp_path / "here" / "round").symlink_to(tmp_path)
    (tmp_path / "here" / "gone.png").symlink_to(tmp_path / "nothing")
    assert scan(tmp_path / "here") == [str(tmp_path / "here" / "y.png")]


def test_labels_are_places_among_the_classes(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.png", "b/2.png", "d/3.png")
    files, classes = list_classes(tmp_path, ["a", "b", "c", "d"])
    assert files.labels.tolist() == [1, 1, 3]
    assert classes == ("a", "b", "c", "d")
    assert class_names(tmp_path) == ("b", "d")


@pytest.mark.parametrize("name", ["red\x1b[31m", "two\nlines", "\x7f", "no utf-8 \udcff"])
def test_a_class_that_cannot_be_printed_is_refused(tmp_path: Path, name: str) -> None:
    """A terminal obeys such signs; and a model with them in its metadata could not be opened."""
    touch(tmp_path, f"{name}/1.png", "b/2.png")
    for read in (class_names, list_folder, survey):
        with pytest.raises(DataError, match="cannot be printed") as caught:
            read(tmp_path)
        assert caught.value.problem.isprintable()
    shutil.rmtree(tmp_path / name)
    touch(tmp_path, "größe <b> \u96ea/1.png")
    assert list_folder(tmp_path).classes == ("b", "größe <b> \u96ea")


def test_a_folder_is_split_or_one(tmp_path: Path) -> None:
    touch(tmp_path, "all/a/1.png", "all/b/2.png", "split/train/a/1.png", "split/train/b/2.png", "split/val/b/3.png")
    whole = list_folder(tmp_path / "all").splits
    assert {name: len(files) for name, files in whole.items()} == {"train": 2}
    parts = list_folder(tmp_path / "split").splits
    assert {name: files.labels.tolist() for name, files in parts.items()} == {"train": [0, 1], "val": [1]}
    swapped = list_folder(tmp_path / "split", val_is_test=True).splits
    assert swapped.keys() == {"train", "test"}
    assert [*swapped["test"]] == [*parts["val"]]


def test_paths_of_any_letters_come_back_as_they_were() -> None:
    names = ("a b.png", "größe/\u96ea.png", "x\udcff.png", "")  # the third is no UTF-8, as file names may be
    files = Files.of(iter(names), range(4))
    assert (len(files), [files.path(index) for index in range(4)], (*files,)) == (4, [*names], names)
    chosen = files.subset(np.array([2, 0]))
    assert ((*chosen,), chosen.labels.tolist()) == ((names[2], names[0]), [2, 0])


def test_a_path_takes_no_more_memory_than_its_text() -> None:
    """What Python keeps for a text besides would be copied into every worker that reads it."""
    tracemalloc.start()
    try:
        paths = (f"/a/folder/of/images/train/n01440764/n01440764_{number:05d}.JPEG" for number in range(20_000))
        files = Files.of(paths, range(20_000))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(files.path(7)) == 56
    assert taken < 20_000 * (56 + 8) * 1.01  # the text and a label


@pytest.mark.parametrize("names", [(), ("val/a/1.png",), ("a/notes.txt",)])
def test_where_nothing_can_be_trained_on_it_says_where_it_should_be(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match="there is no folder .*train") as caught:
        train_folder(tmp_path)
    assert "train/CLASS/" in caught.value.fix
