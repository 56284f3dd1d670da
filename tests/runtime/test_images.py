import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcprune.errors import DataError
from lcprune_runtime import images as module
from lcprune_runtime.images import (
    Preparation,
    list_images,
    read_folder,
    read_image,
    read_prepared,
    read_resized,
    refuse_too_many,
)

RED = (200, 10, 30)
RED_AS_GREY = (200 * 19595 + 10 * 38470 + 30 * 7471 + 0x8000) >> 16  # 69


def save(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def plain(path: Path, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (4, 4)) -> Path:
    return save(path, Image.new("RGB", size, colour))


def test_list_images_is_sorted_and_passes_over_what_is_none(tmp_path: Path) -> None:
    wanted = ["a.png", "b.JPG", "c.jpeg", "d.Bmp", "deep/e.webp", "f.gif", "g.tif", "h.TIFF"]
    for name in [*reversed(wanted), "notes.txt", "._a.png", "png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert list_images(tmp_path) == [tmp_path / name for name in wanted]


def test_list_images_of_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder .*nowhere"):
        list_images(tmp_path / "nowhere")


def test_rgb_is_read_channels_first(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)  # (H, W, C)
    image = read_image(save(tmp_path / "x.png", Image.fromarray(pixels)), None, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("suffix", "image", "rgb", "grey"),
    [
        ("png", Image.new("RGB", (2, 2), RED), RED, RED_AS_GREY),  # by ITU-R 601
        ("png", Image.new("L", (2, 2), 77), (77, 77, 77), 77),
        ("png", Image.new("RGB", (2, 2), RED).quantize(4), RED, RED_AS_GREY),  # a palette is looked up
        ("tif", Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (255, 0, 0), 76),  # 255 x 0.299
        ("png", Image.new("1", (2, 2), 1), (255, 255, 255), 255),
    ],
)
def test_kinds_of_colours(
    tmp_path: Path, suffix: str, image: Image.Image, rgb: tuple[int, int, int], grey: int
) -> None:
    path = save(tmp_path / f"x.{suffix}", image)
    assert read_image(path, None, 3)[:, 1, 1].tolist() == list(rgb)
    assert read_image(path, None, 1)[:, 1, 1].tolist() == [grey]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (2, 2), (200, 100, 50, 0)), [0, 0, 0]),
        (Image.new("RGBA", (2, 2), (200, 100, 50, 255)), [200, 100, 50]),
        (Image.new("RGBA", (2, 2), (200, 100, 50, 102)), [80, 40, 20]),  # 102 / 255 = 0.4
        (Image.new("LA", (2, 2), (200, 102)), [80, 80, 80]),
    ],
)
def test_what_is_transparent_lies_over_black(tmp_path: Path, image: Image.Image, expected: list[int]) -> None:
    assert read_image(save(tmp_path / "x.png", image), None, 3)[:, 1, 1].tolist() == expected


def test_a_transparent_palette_entry_is_black(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 1, 2, 3])
    image.putpixel((1, 0), 1)
    path = save(tmp_path / "x.png", image, transparency=0)
    assert read_image(path, None, 3)[:, 0].T.tolist() == [[0, 0, 0], [1, 2, 3]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_of_sixteen_bits_the_upper_eight_are_kept(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 255, 256, 0x1234, 0xFFFF]], dtype=np.uint16)
    path = save(tmp_path / f"x.{suffix}", Image.fromarray(deep))
    assert read_image(path, None, 1)[0, 0].tolist() == [0, 0, 1, 0x12, 0xFF]
    assert read_image(path, None, 3)[:, 0, 3].tolist() == [0x12] * 3


def test_exif_turns_the_image_upright(tmp_path: Path) -> None:
    pixels = np.array([[10, 20, 30]], dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown right: turned by 90 degrees clockwise
    path = save(tmp_path / "x.png", Image.fromarray(pixels), exif=exif)
    assert read_image(path, None, 1).tolist() == [[[10], [20], [30]]]


def test_resizing_averages_instead_of_skipping(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 200], dtype=np.uint8), (64, 32))
    image = read_image(save(tmp_path / "x.png", Image.fromarray(stripes)), 8, 1)
    assert image.shape == (1, 8, 8)
    np.testing.assert_allclose(image[0, 1:-1, 1:-1].astype(int), 100, atol=2)


def test_a_floating_point_image_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.tif", Image.new("F", (2, 2), 0.5))
    with pytest.raises(DataError, match="x.tif cannot be read as an image: its pixels are floating-point"):
        read_image(path, None, 1)


def cut_short(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "gif", "tif"])
def test_a_truncated_image_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken.{suffix}"
    cut_short(path)
    with pytest.raises(DataError, match=f"broken.{suffix} cannot be read as an image"):
        read_image(path, 8, 3)


def test_a_folder_is_read_class_by_class(tmp_path: Path) -> None:
    plain(tmp_path / "dog" / "1.png", (9, 9, 9))
    plain(tmp_path / "cat" / "2.png", (2, 2, 2), size=(8, 2))
    plain(tmp_path / "cat" / "1.png", (1, 1, 1))
    found = read_folder(tmp_path, Preparation(5, 3))
    images, labels, classes = found.images, found.labels, found.classes
    assert images.shape == (3, 3, 5, 5)
    assert images[:, 0, 0, 0].tolist() == [1, 2, 9]
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 0, 1]
    assert classes == ("cat", "dog")
    found = read_folder(tmp_path, Preparation(4, 1), ["ant", "cat", "dog"])
    assert found.labels.tolist() == [1, 1, 2]
    assert found.classes == ("ant", "cat", "dog")


def nothing(folder: Path) -> None:
    folder.rmdir()


def loose_images(folder: Path) -> None:
    plain(folder / "1.png")


def empty_class(folder: Path) -> None:
    plain(folder / "cat" / "1.png")
    (folder / "dog").mkdir()


def unknown_class(folder: Path) -> None:
    plain(folder / "cat" / "1.png")
    plain(folder / "cow" / "1.png")


@pytest.mark.parametrize(
    ("fill", "problem", "fix"),
    [
        (nothing, "there is no folder .*images", "images/CLASS"),
        (loose_images, "images has 1 images but no class folders", "images/CLASS"),
        (empty_class, "the class folder .*dog has no images", "add some"),
        (unknown_class, r"cow is no class of the training images \(cat, dog\)", "rename"),
    ],
)
def test_a_folder_that_cannot_be_used_says_how_to_fix_it(
    tmp_path: Path, fill: Callable[[Path], None], problem: str, fix: str
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    fill(folder)
    with pytest.raises(DataError, match=problem) as caught:
        read_folder(folder, Preparation(4, 3), ["cat", "dog"])
    assert fix in caught.value.fix


def test_images_that_do_not_fit_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_physical_memory_bytes", lambda: 2 * 48)
    refuse_too_many(1, 4, 3)  # 48 bytes, exactly half
    (tmp_path / "cat").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "cat" / name).write_bytes(b"no image")
    with pytest.raises(DataError, match="2 images of 3 x 4 x 4 take .* more than half") as caught:
        read_folder(tmp_path, Preparation(4, 3))
    assert "smaller data.image_size" in caught.value.fix


# --- how a network sees a file


def gradient(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.tile(np.arange(width, dtype=np.uint8), (height, 1)))


def test_the_middle_of_a_wide_and_of_a_tall_image(tmp_path: Path) -> None:
    wide = save(tmp_path / "wide.png", gradient(9, 4))
    seen = read_prepared(wide, Preparation(4, 1, shorter_side=4))
    assert seen[0, 0].tolist() == [2, 3, 4, 5]  # 9 - 4 = 5 over: 2 on the left, 3 on the right
    tall = save(tmp_path / "tall.png", gradient(9, 4).transpose(Image.Transpose.TRANSPOSE))
    np.testing.assert_array_equal(read_prepared(tall, Preparation(4, 1, shorter_side=4))[0], seen[0].T)


def test_the_shorter_side_is_scaled_and_the_other_one_rounded_down(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", gradient(21, 10))
    preparation = Preparation(4, 3, shorter_side=5)
    assert read_resized(path, preparation).shape == (3, 5, 10)  # 21 x 5 / 10 = 10.5
    assert read_resized(save(tmp_path / "y.png", gradient(23, 10)), preparation).shape == (3, 5, 11)  # 11.5
    expected = np.asarray(gradient(21, 10).resize((10, 5), Image.Resampling.BILINEAR))[0:4, 3:7]
    np.testing.assert_array_equal(read_prepared(path, preparation)[2], expected)


def test_the_interpolation_is_the_one_asked_for(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9), dtype=np.uint8))
    path = save(tmp_path / "x.png", image)
    for name, resampling in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        seen = read_prepared(path, Preparation(5, 1, interpolation=name))
        np.testing.assert_array_equal(seen[0], np.asarray(image.resize((5, 5), resampling)))


def test_a_strip_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", Image.new("L", (40_000, 2), 9))
    assert read_resized(path, Preparation(32, 1, shorter_side=32)).shape == (1, 32, 256)


def test_of_an_rgb_file_of_sixteen_bits_the_upper_eight_are_kept(tmp_path: Path) -> None:
    row = b"\x00" + struct.pack(">6H", 0x1234, 0xFFFF, 0x00FF, 0x8000, 0x0100, 0)  # no filter, two pixels
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(content)
    assert read_image(tmp_path / "x.png", None, 3)[:, 0].T.tolist() == [[0x12, 0xFF, 0], [0x80, 1, 0]]


def test_of_an_animation_the_first_image_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
    path = save(tmp_path / "x.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_image(path, None, 3)[:, 0, 0].tolist() == list(RED)
