import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lcprune.data.files import Files, class_names, list_classes, list_folder, scan, together, train_folder
from lcprune.data.survey import survey
from lcprune.errors import DataError


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
    whole = list_folder(tmp_path / "all")
    assert (len(whole.train), whole.val, whole.test) == (2, None, None)
    parts = list_folder(tmp_path / "split")
    assert parts.val is not None
    assert (parts.val.labels.tolist(), parts.test) == ([1], None)
    swapped = list_folder(tmp_path / "split", val_is_test=True)
    assert swapped.val is None
    assert swapped.test is not None
    assert [*swapped.test.paths] == [*parts.val.paths]


def test_paths_of_any_letters_come_back_as_they_were() -> None:
    names = ("a b.png", "größe/\u96ea.png", "x\udcff.png", "")  # the third is no UTF-8, as file names may be
    paths = together(iter(names))
    assert (len(paths), [paths[index] for index in range(4)], (*paths,)) == (4, [*names], names)
    assert (*Files(paths, np.arange(4)).subset(np.array([2, 0])).paths,) == (names[2], names[0])


def test_a_path_takes_no_more_memory_than_its_text() -> None:
    """What Python keeps for a text besides would be copied into every worker that reads it."""
    tracemalloc.start()
    try:
        paths = together(f"/a/folder/of/images/train/n01440764/n01440764_{number:05d}.JPEG" for number in range(20_000))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(paths[7]) == 56
    assert taken < 20_000 * (56 + 8) * 1.25  # it grows by an eighth


@pytest.mark.parametrize("names", [(), ("val/a/1.png",), ("a/notes.txt",)])
def test_where_nothing_can_be_trained_on_it_says_where_it_should_be(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match="there is no folder .*train") as caught:
        train_folder(tmp_path)
    assert "train/CLASS/" in caught.value.fix
