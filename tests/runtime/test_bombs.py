"""Image files that were made to do harm."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from lcprune.errors import DataError
from lcprune_runtime import decoding
from lcprune_runtime.images import read_image

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(marker) (w) file\nshowpage\n%%EOF\n"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(side: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", b"")


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns of the first and refuses the second; a limit that a program has lifted stands all the same."""
    for side, is_lifted in ((10_000, False), (60_000, False), (10_000, True)):
        if is_lifted:
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        (tmp_path / "bomb.png").write_bytes(png(side))
        with pytest.raises(DataError, match=f"bomb.png has more than {decoding.MAX_PIXELS:,} pixels"):
            read_image(tmp_path / "bomb.png", 8, 1)


def test_postscript_under_the_name_of_an_image_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(POSTSCRIPT)
    with Image.open(path) as opened:
        assert opened.format == "EPS"  # Pillow by itself would hand it to Ghostscript
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(DataError, match="x.png cannot be read as an image"):
        read_image(path, 8, 3)


def test_text_that_unfolds_to_a_gigabyte_is_refused(tmp_path: Path) -> None:
    text = zlib.compress(bytes(2**26), 9)
    (tmp_path / "text.png").write_bytes(png(8, *(chunk(b"zTXt", b"key\0\0" + text) for _ in range(16))))
    with pytest.raises(DataError, match=r"text\.png cannot be read as an image"):
        read_image(tmp_path / "text.png", 8, 1)


LARGEST = """
import sys, time
from pathlib import Path
from lcprune_runtime.images import read_image
before = time.process_time()
pixels = read_image(sys.argv[1], 8, 3)
spent = time.process_time() - before
# not ru_maxrss, in which the process counts that this one was forked from
peak_kib = next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))
print(spent, 1024 * int(peak_kib), pixels.mean())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the peak of memory")
def test_the_largest_image_that_is_taken_has_its_limits_in_time_and_memory(tmp_path: Path) -> None:
    """The limit on pixels bounds both: 11 kB of file are 89 million pixels, of which some may be transparent."""
    side = int(decoding.MAX_PIXELS**0.5)
    picture = Image.new("P", (side, side))
    picture.putpalette([255, 255, 255, 0, 0, 0])
    path = tmp_path / "large.png"
    picture.save(path, transparency=b"\xff\x00", bits=1)
    assert path.stat().st_size < 20_000
    done = subprocess.run([sys.executable, "-c", LARGEST, path], capture_output=True, text=True, check=True)
    cpu_s, memory_bytes, mean = map(float, done.stdout.split())
    assert mean == 255
    assert cpu_s < 20
    assert memory_bytes < 2**30 * 1.5
