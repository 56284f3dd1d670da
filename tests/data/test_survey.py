"""What is found in a folder of images: every number by hand."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcprune.data import survey as module
from lcprune.data.survey import survey
from lcprune.errors import DataError

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """``save("a/1.png", size=(w, h), mode="RGB")``: an image below ``photos/`` that no other one is like."""
    made = 0

    def write(name: str, size: tuple[int, int] = (8, 6), mode: str = "RGB", **options: object) -> Path:
        nonlocal made
        made += 1
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(made).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        if mode == "I;16":
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        elif mode != "RGB":
            image = image.convert(mode)
        image.save(path, **options)
        return path

    return write


def names(groups: tuple[tuple[module.FoundImage, ...], ...]) -> list[list[str]]:
    return [["/".join(Path(image.path).parts[-3:]) for image in group] for group in groups]


def test_classes_and_counts_of_a_folder_that_is_not_split(tmp_path: Path, save: Save) -> None:
    for name in ("dog/1.png", "dog/deep/2.JPG", "cat/1.png", "dog/3.webp"):
        save(name)
    (tmp_path / "photos/dog/._1.png").write_bytes(b"what a Mac leaves behind")
    (tmp_path / "photos/dog/.DS_Store").write_bytes(b"")
    save("dog/.thumbnails/1.png")
    save(".thumbnails/1.png")
    found = survey(tmp_path / "photos")
    assert found.classes == ("cat", "dog")
    assert found.counts == {"": {"cat": 1, "dog": 3}}
    assert found.imbalance == 3.0
    assert found.other_files == {}
    assert found.sample.damaged == {}


def test_counts_of_each_split(tmp_path: Path, save: Save) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "train/b/2.png", "val/a/1.png", "test/b/1.png", "test/b/2.png"):
        save(name)
    found = survey(tmp_path / "photos")
    assert found.counts == {"train": {"a": 1, "b": 2}, "val": {"a": 1}, "test": {"b": 2}}
    assert found.train_counts == {"a": 1, "b": 2}


def test_sizes_are_quantiles_of_upright_images(tmp_path: Path, save: Save) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn: 30 x 10 stands as 10 x 30
    save("a/1.jpg", (30, 10), exif=turned)
    save("a/2.png", (20, 10))
    save("b/3.png", (40, 40))
    sample = survey(tmp_path / "photos").sample
    assert sample.widths == (10, 15, 20, 30, 40)
    assert sample.heights == (10, 20, 30, 35, 40)
    assert sample.shorter == (10, 10, 10, 25, 40)
    assert sample.elongation == (1, 1.5, 2, 2.5, 3)
    assert (sample.sampled, sample.decoded, sample.rotated) == (3, 3, 1)


def test_an_rgb_file_of_16_bits_is_told_from_one_of_8(tmp_path: Path) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    path = tmp_path / "x.png"
    header, row = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0), zlib.compress(bytes(7))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b""))
    assert module._header(str(path)) == (1, 1, "16-bit RGB", False)


@pytest.mark.parametrize(
    ("name", "mode", "kind"),
    [
        ("1.png", "L", "grey"),
        ("1.png", "1", "grey"),
        ("1.png", "LA", "grey, transparent"),
        ("1.png", "RGBA", "RGBA"),
        ("1.png", "P", "palette"),
        ("1.png", "I;16", "16-bit grey"),
        ("1.jpg", "CMYK", "CMYK"),
        ("1.jpg", "RGB", "RGB"),
    ],
)
def test_kinds(tmp_path: Path, save: Save, name: str, mode: str, kind: str) -> None:
    save(f"a/{name}", mode=mode)
    save("b/2.png", mode="RGBA")
    kinds = survey(tmp_path / "photos").sample.kinds
    assert kinds == ({"RGBA": 2} if kind == "RGBA" else {kind: 1, "RGBA": 1})


def test_damaged_files_are_named_with_what_is_wrong(tmp_path: Path, save: Save) -> None:
    save("a/good.png")
    cut = save("a/cut.png", (64, 64))
    cut.write_bytes(cut.read_bytes()[:3000])
    empty = save("b/empty.png")
    empty.write_bytes(b"")
    save("b/good.png")
    text = save("b/text.jpg")
    text.write_text("no image")
    found = survey(tmp_path / "photos")
    assert sorted(Path(path).name for path in found.sample.damaged) == ["cut.png", "empty.png", "text.jpg"]
    assert all(path in problem for path, problem in found.sample.damaged.items())
    assert sum(found.counts[""].values()) == 5  # they are files of a class all the same
    assert sum(found.sample.kinds.values()) == 2


def test_copies_leaks_and_contradictions(tmp_path: Path, save: Save) -> None:
    one, two = save("train/a/1.png"), save("train/a/2.png")
    save("train/b/3.png")
    for source, target in ((one, "train/a/1 copy.png"), (one, "test/a/9.png"), (two, "train/b/2.png")):
        path = tmp_path / "photos" / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes())
    copies = survey(tmp_path / "photos").copies
    assert names(copies.groups) == [
        ["test/a/9.png", "train/a/1 copy.png", "train/a/1.png"],
        ["train/a/2.png", "train/b/2.png"],
    ]
    assert names(copies.leaks) == [["test/a/9.png", "train/a/1 copy.png", "train/a/1.png"]]
    assert names(copies.contradictions) == [["train/a/2.png", "train/b/2.png"]]
    assert copies.compared == copies.same_size


def test_empty_files_are_no_copies(tmp_path: Path, save: Save) -> None:
    for name, size in (("a/1.png", (8, 6)), ("b/1.png", (9, 6))):
        save(name, size)
        (tmp_path / "photos" / name).with_name("empty.png").touch()
    found = survey(tmp_path / "photos")
    assert (found.copies.same_size, found.copies.groups, len(found.sample.damaged)) == (0, (), 2)


def test_limits_are_kept_and_told(tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(10):
        save(f"{'ab'[index % 2]}/{index}.bmp")  # all of one size
    monkeypatch.setattr(module, "SAMPLE", 4)
    monkeypatch.setattr(module, "DECODE_BYTES", 2 * 54 + 2 * 6 * 24 + 1)  # a bitmap's header, six rows of 24 bytes
    monkeypatch.setattr(module, "HASH_FILES", 3)
    found = survey(tmp_path / "photos")
    assert (found.sample.sampled, found.sample.decoded) == (4, 2)
    assert (found.copies.same_size, found.copies.compared) == (10, 3)
    monkeypatch.setattr(module, "HASH_FILES", 100)
    monkeypatch.setattr(module, "HASH_BYTES", 5 * (54 + 6 * 24) + 1)
    assert survey(tmp_path / "photos").copies.compared == 5


def test_what_is_passed_over_is_told(tmp_path: Path, save: Save) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "valid/a/2.png", "extra/a/2.png", "loose.png", "train/loose.png"):
        save(name)
    (tmp_path / "photos/train/a/notes.txt").write_text("a text")
    (tmp_path / "photos/train/a/x.NEF").write_text("a photograph of a camera")
    found = survey(tmp_path / "photos")
    root = tmp_path / "photos"
    assert found.other_files == {".txt": 1, ".nef": 1}
    assert set(found.other_examples) == {str(root / "train/a/notes.txt"), str(root / "train/a/x.NEF")}
    assert set(found.remarks) == {
        f"{root} itself holds images, in no class folder: 1, which are not read",
        f"{root / 'train'} itself holds images, in no class folder: 1, which are not read",
        f"{root / 'valid'} is not read: if it is the val split, call it val",
        f"{root / 'extra'} is not read",
    }


def test_splits_without_train_are_taken_for_classes_and_that_is_told(tmp_path: Path, save: Save) -> None:
    save("training/a/1.png")
    save("testing/a/1.png")
    found = survey(tmp_path / "photos")
    assert found.classes == ("testing", "training")
    root = tmp_path / "photos"
    assert found.remarks == (
        f"{root / 'testing'} is taken for a class: if it is the test split, call it test",
        f"{root / 'training'} is taken for a class: if it is the train split, call it train",
    )


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ((), "has no class folders with images"),
        (("1.png", "2.png"), "has 2 images but no class folders with images"),
        (("a/1.png", "b/readme.txt"), r"class folder .*b has no images \(other files: 1 .txt\)"),
        (("train/a/1.png", "train/b/1.png", "test/b/x.txt"), "class folder .*test/b has no images"),
    ],
)
def test_what_training_would_refuse_is_refused(tmp_path: Path, files: tuple[str, ...], problem: str) -> None:
    (tmp_path / "photos").mkdir()
    for name in files:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    with pytest.raises(DataError, match=problem):
        survey(tmp_path / "photos")


def test_deep_images_that_do_not_fill_their_bits_are_told(tmp_path: Path) -> None:
    for name, factor in (("a", 16), ("b", 8)):  # 12 bits, and 11
        (tmp_path / name).mkdir()
        deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * factor
        Image.fromarray(deep).save(tmp_path / name / "1.png")
    assert survey(tmp_path).remarks == (
        "of 16 bits the upper 8 are kept, and no 16-bit image looked at has more than 15 there: 16 levels are left of "
        "what they hold; if that is 12 bits in 16, scale them to all 16",
    )
    Image.fromarray(np.full((4, 4), 0x4000, dtype=np.uint16)).save(tmp_path / "b" / "2.png")
    found = survey(tmp_path)
    assert (found.remarks, found.sample.brightest) == ((), 64)


def test_numbers_of_32_bits_are_damaged_files_to_training(tmp_path: Path, save: Save) -> None:
    for name in ("a/1.png", "b/1.png"):
        save(name)
    Image.fromarray(np.arange(16, dtype=np.int32).reshape(4, 4)).save(tmp_path / "photos/a/2.tif")
    (problem,) = survey(tmp_path / "photos").sample.damaged.values()
    assert problem.endswith("its pixels are signed or 32-bit numbers, whose range is not known")


def test_a_file_that_vanishes_meanwhile_is_passed_over(
    tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        save(name)
    stat = module._size_bytes
    monkeypatch.setattr(module, "_size_bytes", lambda path: None if path.endswith("2.png") else stat(path))
    assert survey(tmp_path / "photos").counts == {"": {"a": 1, "b": 1}}
    assert stat(str(tmp_path / "gone")) is None
