import errno
import os
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lcprune.data.files import list_folder, train_folder
from lcprune.data.survey import survey
from lcprune.errors import DataError
from lcprune_runtime import files
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
    found, classes = list_classes(tmp_path, ["a", "b", "c", "d"])
    assert found.labels.tolist() == [1, 1, 3]
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
    found = Files.of(iter(names), range(4))
    assert (len(found), [found.path(index) for index in range(4)], (*found,)) == (4, [*names], names)
    chosen = found.subset(np.array([2, 0]))
    assert ((*chosen,), chosen.labels.tolist()) == ((names[2], names[0]), [2, 0])


def test_a_path_takes_no_more_memory_than_its_text() -> None:
    """What Python keeps for a text besides would be copied into every worker that reads it."""
    tracemalloc.start()
    try:
        paths = (f"/a/folder/of/images/train/n01440764/n01440764_{number:05d}.JPEG" for number in range(20_000))
        found = Files.of(paths, range(20_000))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.path(7)) == 56
    assert taken < 20_000 * (56 + 8) * 1.01  # the text and a label


def test_names_that_look_alike_are_refused(tmp_path: Path) -> None:
    pairs = [
        ("caf\u00e9", "cafe\u0301"),
        ("cat", "cat "),
        ("cat", " cat"),
        ("cat", "c\u200bat"),
        ("1", "01"),
        ("a b", "a  b"),
    ]
    for number, (one, other) in enumerate(pairs):
        touch(tmp_path / str(number), f"{one}/1.png", f"{other}/1.png", "dog/1.png")
        with pytest.raises(DataError, match="differ in nothing but") as caught:
            list_folder(tmp_path / str(number))
        assert "same name" in caught.value.fix
    touch(tmp_path / "letters", "A/1.png", "a/1.png")  # two classes of handwriting
    assert list_folder(tmp_path / "letters").classes == ("A", "a")


@pytest.mark.parametrize("name", ["Cat", "cat ", "CAT"])
def test_a_known_class_in_other_letters_is_named(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "train/cat/1.png", "train/dog/1.png", f"val/{name}/1.png")
    with pytest.raises(DataError, match="is no class of the training images: .* and 'cat' differ") as caught:
        list_folder(tmp_path)
    assert caught.value.fix == "rename it to cat, as it is there"


@pytest.mark.parametrize(
    ("names", "problem", "fix"),
    [
        (
            ("train/1.png", "car/1.png", "bus/1.png"),
            "train has 1 images but no class folders",
            "if train is a class, rename",
        ),
        (
            ("test/1.png", "car/1.png", "bus/1.png"),
            "test has 1 images but no class folders",
            "if test is a class, rename",
        ),
        (("train/a/1.png", "train/b/1.png", "val/x.txt"), "val has no class folders", "or remove .*val"),
        (("photos/a/1.png", "photos/b/1.png"), "has only the class photos", "name .*photos if that is what holds"),
        (("photos/train/a/1.png", "photos/train/b/1.png"), "has only the class photos", "name .*photos if that"),
        (("cat/1.png", "cat/2.png"), "has only the class cat", "add a folder for each further class"),
    ],
)
def test_a_layout_that_nearly_is_one_says_what_would_be(
    tmp_path: Path, names: tuple[str, ...], problem: str, fix: str
) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=problem) as caught:
        list_folder(tmp_path)
    assert re.search(fix, caught.value.fix)


def test_the_split_is_named_where_classes_are_known(tmp_path: Path) -> None:
    touch(tmp_path, "test/a/1.png", "test/b/1.png")
    with pytest.raises(DataError, match="has no folders of the classes, but .*test has") as caught:
        list_classes(tmp_path, ["a", "b"])
    assert caught.value.fix == f"name that folder: {tmp_path / 'test'}"
    assert len(list_classes(tmp_path / "test", ["a", "b"])[0]) == 2


def test_an_archive_is_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "photos.zip")
    for name, problem in (("photos.zip", "photos.zip is no folder"), ("none", "there is no folder .*none")):
        with pytest.raises(DataError, match=problem) as caught:
            list_folder(tmp_path / name)
        assert "unpack an archive first" in caught.value.fix


def test_folders_that_systems_make_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/@eaDir/1.png", "b/1.png", "__MACOSX/a/1.png", "lost+found/1.png")
    listing = list_folder(tmp_path)
    assert (listing.classes, len(listing.splits["train"])) == (("a", "b"), 2)


def test_loops_of_links_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a/self.png").symlink_to("self.png")
    (tmp_path / "class").symlink_to("class")
    assert len(scan(tmp_path / "a")) == 1
    assert class_names(tmp_path) == ("a", "b")
    assert survey(tmp_path).classes == ("a", "b")


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_folder_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    touch(tmp_path, "a/1.png", "b/deep/1.png", "c/1.png")
    real = os.scandir

    def scandir(path: str | Path) -> object:
        if str(path).endswith("deep"):
            raise OSError(error, os.strerror(error), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for read in (list_folder, survey, scan):
        with pytest.raises(DataError, match=f"b/deep cannot be read: {os.strerror(error)}"):
            read(tmp_path)


def test_a_folder_that_vanishes_meanwhile_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.png", "a/deep/1.png")
    entries = files._entries
    monkeypatch.setattr(files, "_entries", lambda path: entries(f"{path}-gone" if "deep" in str(path) else path))
    assert len(scan(tmp_path)) == 1


CONTENT = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8\xff\xe0",
    "BMP": b"BM" + bytes(12) + b"\x28\0\0\0",
    "WebP": b"RIFF\0\0\0\0WEBP",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "AVIF": b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1miaf",
}


def test_without_a_suffix_the_content_decides(tmp_path: Path) -> None:
    for number, (name, content) in enumerate(CONTENT.items()):
        for file in (name, f"{name}.{number}", f"{name}.jpg_large", f"{name}.txt", f"{name}.bak"):
            (tmp_path / file).write_bytes(content + bytes(50))
    for name in ("README", "BMW", "video"):
        (tmp_path / name).write_bytes({"BMW": b"BMW", "video": b"\0\0\0\x18ftypisom"}.get(name, b"text"))
    found = {Path(path).name for path in scan(tmp_path)}
    assert found == {n for i, name in enumerate(CONTENT) for n in (name, f"{name}.{i}", f"{name}.jpg_large")}
    assert not files.is_image(str(tmp_path / "gone"))
    assert files.container_of(CONTENT["HEIC"]) == "HEIF"
    assert files.container_of(CONTENT["AVIF"]) == "AVIF"


@pytest.mark.parametrize("suffix", [".jpe", ".JFIF", ".heic", ".HEIF", ".avif"])
def test_suffixes_of_phones_and_browsers(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, f"x{suffix}")
    assert len(scan(tmp_path)) == 1


@pytest.mark.parametrize("names", [(), ("val/a/1.png",), ("a/notes.txt",)])
def test_where_nothing_can_be_trained_on_it_says_where_it_should_be(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match="there is no folder .*train") as caught:
        train_folder(tmp_path)
    assert "train/CLASS/" in caught.value.fix
