"""Files that are good images, and are read; and files of which 8 bits would be a guess, and are refused."""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcprune_runtime import decoding
from lcprune_runtime.errors import DataError
from lcprune_runtime.images import read_image


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(colour: int, depth: int, rows: bytes, width: int, *chunks: bytes) -> bytes:
    """One row of pixels, with further chunks before them."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def jpeg_with_exif(path: Path, *entries: bytes) -> Path:
    """12 x 8 pixels, red on the left; EXIF says that it is turned (6), and `entries` besides."""
    turned = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    block = b"MM\0*" + struct.pack(">IH", 8, 1 + len(entries)) + turned + b"".join(entries) + bytes(4)
    image = Image.new("RGB", (12, 8), (250, 0, 0))
    image.paste((0, 0, 250), (6, 0, 12, 8))
    image.save(path, exif=b"Exif\0\0" + block, quality=95)
    return path


@pytest.mark.parametrize(
    "entry",
    [
        struct.pack(">HHI4s", 0x0128, 2, 2, b"x\0\0\0"),  # text where a number should be
        struct.pack(">HHII", 0x8825, 4, 1, 999_999),  # GPS data beyond the end
        struct.pack(">HHII", 0x010F, 2, 0xFFFFFF, 8),  # a text longer than the block
        struct.pack(">HHII", 0x9999, 77, 1, 0),  # no such type
    ],
)
def test_exif_that_is_damaged_still_turns_the_image(tmp_path: Path, entry: bytes) -> None:
    pixels = read_image(jpeg_with_exif(tmp_path / "x.jpg", entry), None, 3)
    assert pixels.shape == (3, 12, 8)
    assert pixels[0, 0].min() > 200 > 50 > pixels[0, -1].max()  # the left is above


@pytest.mark.parametrize("exif", [b"MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0", b"", b"no TIFF"])
def test_exif_that_cannot_be_read_leaves_the_image_as_it_is(tmp_path: Path, exif: bytes) -> None:
    Image.new("RGB", (12, 8)).save(tmp_path / "x.jpg", exif=b"Exif\0\0" + exif)
    assert read_image(tmp_path / "x.jpg", None, 3).shape == (3, 8, 12)


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_turn_of_exif(tmp_path: Path, turn: int) -> None:
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).T,
        8: np.rot90(stored, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = turn
    for suffix in ("png", "tif"):
        Image.fromarray(stored).save(tmp_path / f"x.{suffix}", exif=exif)
        np.testing.assert_array_equal(read_image(tmp_path / f"x.{suffix}", None, 1)[0], upright[turn])


@pytest.mark.parametrize("compressed", [True, False])
def test_long_texts_do_not_make_an_image_bad(tmp_path: Path, compressed: bool) -> None:
    body = zlib.compress(bytes(2**24)) if compressed else b"x" * 2**20
    texts = [chunk(b"zTXt" if compressed else b"tEXt", b"key\0" + (b"\0" if compressed else b"") + body)] * 80
    (tmp_path / "x.png").write_bytes(png(0, 8, b"\x05\x09", 2, *texts))
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK|text chunks"), Image.open(tmp_path / "x.png") as image:
        image.load()
    assert read_image(tmp_path / "x.png", None, 1).tolist() == [[[5, 9]]]
    assert read_image(io.BytesIO((tmp_path / "x.png").read_bytes()), None, 1).tolist() == [[[5, 9]]]


def test_a_damaged_chunk_that_has_no_pixels_is_left_out(tmp_path: Path) -> None:
    broken = chunk(b"tEXt", b"key\0value")[:-4] + b"\0\0\0\0"
    (tmp_path / "x.png").write_bytes(png(0, 8, b"\x05", 1, broken))
    assert read_image(tmp_path / "x.png", None, 1).tolist() == [[[5]]]


@pytest.mark.parametrize("name", ["x", "x.jpg", "x.png_large", "x.dat"])
def test_the_name_says_nothing_about_the_content(tmp_path: Path, name: str) -> None:
    Image.new("L", (2, 2), 7).save(tmp_path / name, format="PNG")
    assert read_image(tmp_path / name, None, 1).tolist() == [[[7, 7], [7, 7]]]


# --- what 8 bits would be a guess of


@pytest.mark.parametrize("dtype", [np.int32, np.int16])
def test_signed_and_long_numbers_are_refused(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "x.tif"
    if dtype is np.int32:
        Image.fromarray(np.arange(16, dtype=np.int32).reshape(4, 4)).save(path)
    else:  # 16 bits with a sign, which Pillow does not write
        Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4096).save(path, tiffinfo={339: 2})
    with pytest.raises(DataError, match="signed or 32-bit numbers, whose range is not known") as caught:
        read_image(path, None, 1)
    assert "8 or 16 bits" in caught.value.fix


def test_sixteen_bits_of_which_only_the_lower_eight_are_used_are_refused(tmp_path: Path) -> None:
    for brightest, is_refused in ((0, False), (255, True), (256, False)):
        Image.fromarray(np.array([[0, brightest]], dtype=np.uint16)).save(tmp_path / "x.png")
        if is_refused:
            with pytest.raises(DataError, match=r"reach 255 of 65,535, of which 8 bits are black"):
                read_image(tmp_path / "x.png", None, 1)
        else:
            assert read_image(tmp_path / "x.png", None, 1).tolist() == [[[0, brightest >> 8]]]


def test_what_is_transparent_in_sixteen_bits_lies_over_black(tmp_path: Path) -> None:
    grey = png(0, 16, struct.pack(">2H", 0x8000, 0x4000), 2, chunk(b"tRNS", struct.pack(">H", 0x8000)))
    (tmp_path / "grey.png").write_bytes(grey)
    assert read_image(tmp_path / "grey.png", None, 1).tolist() == [[[0, 0x40]]]
    key = struct.pack(">3H", 0x8000, 0x1234, 0xFFFF)
    row = key + struct.pack(">3H", 0x8000, 0x2234, 0xFFFF)
    (tmp_path / "rgb.png").write_bytes(png(2, 16, row, 2, chunk(b"tRNS", key)))
    assert read_image(tmp_path / "rgb.png", None, 3)[:, 0].T.tolist() == [[0, 0, 0], [0x80, 0x22, 0xFF]]


# --- formats by plug-ins


def test_avif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jpg"  # told by the content
    Image.init()
    if "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow does not write AVIF")
    Image.new("RGB", (16, 16), (200, 200, 200)).save(path, format="AVIF", quality=100)
    assert abs(int(read_image(path, None, 3).mean()) - 200) < 4
    monkeypatch.delitem(Image.OPEN, "AVIF")
    with pytest.raises(DataError, match="AVIF image, which this version of Pillow does not read"):
        read_image(path, None, 3)


def test_heic(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    Image.new("RGB", (32, 16), (200, 200, 200)).save(tmp_path / "x.jpg", format="HEIF", quality=100)
    pixels = read_image(tmp_path / "x.jpg", None, 3)
    assert (pixels.shape, abs(int(pixels.mean()) - 200) < 4) == ((3, 16, 32), True)


def test_heic_without_its_plug_in_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(DataError, match="x.heic is a HEIC image") as caught:
        read_image(tmp_path / "x.heic", None, 3)
    assert "pip install pillow-heif" in caught.value.fix


# --- errors of the system


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(decoding, "_stream", refuse)
    with pytest.raises(DataError, match="x.png cannot be read: permission denied"):
        read_image(tmp_path / "x.png", None, 3)


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()])
def test_what_the_machine_lacks_makes_no_image_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Else `on_bad_image: skip` would leave good images out."""

    def fail(*_: object) -> object:
        raise error

    monkeypatch.setattr(decoding, "_stream", fail)
    with pytest.raises(type(error)):
        read_image(tmp_path / "x.png", None, 3)
