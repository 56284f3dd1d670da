"""One image file to pixels, with Pillow: which decoders are used, what is refused, upright and in 8 bits."""

import errno
import io
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from lcprune_runtime.errors import DataError, LcpruneError
from lcprune_runtime.files import HEAD_BYTES, container_of

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
"""The only decoders that are used, whatever a file is called: some of Pillow's others start programs (PostScript)."""
MAX_PIXELS = 89_478_485
"""The most pixels of an image, by its header: Pillow's own limit, which a program may have lifted."""

T = TypeVar("T")

_WITH_ALPHA = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})
_ORIENTATION = 0x0112  # EXIF's, and so TIFF's, tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"})
_SYSTEM_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # of the machine; the file may be good


class _RangeError(ValueError):
    """Pixels whose range is not known, so that 8 bits of them would be a guess."""


def decode(path: str | Path | BinaryIO, mode: Literal["L", "RGB"]) -> Image.Image:
    """A file as an upright image of this mode; see `lcprune_runtime.images.read_image`.

    Raises:
        DataError: If the file is missing, no image, damaged, cut short, far too large to be decoded safely, or has
            pixels of an unknown range.
    """

    def load(image: Image.Image) -> Image.Image:
        deep = has_sixteen_bits(image)  # known before the pixels are loaded
        image.load()
        turn = _UPRIGHT.get(orientation(image))
        converted = _to_mode(image, mode, deep)
        return converted if turn is None else converted.transpose(turn)

    return with_image(path, load)


def with_image(path: str | Path | BinaryIO, work: Callable[[Image.Image], T]) -> T:
    """What `work` makes of an image file whose header has been read.

    Where that fails and the file is a PNG, it is tried again without everything in it that is no pixel: Pillow refuses
    long texts, of which a good image may have some.

    Raises:
        DataError: See `decode`.
    """
    with errors_named(path), warnings.catch_warnings(), _stream(path) as stream:
        warnings.simplefilter("ignore")  # of EXIF data and sizes that are out of the ordinary
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _opened(stream, path, work)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning, LcpruneError, _RangeError):
            raise
        except Exception:
            pixels = _png_pixels(stream)
            if pixels is None:
                raise
            return _opened(pixels, path, work)


def orientation(image: Image.Image) -> int:
    """EXIF's number for how the image is turned, 1 if it is upright; the pixels are not loaded for it."""
    try:
        return int(Image.Image.getexif(image).get(_ORIENTATION, 1))  # PNG's own would load them
    except Exception:  # damaged EXIF data raise nearly everything, and the pixels may be good
        return 1


def has_sixteen_bits(image: Image.Image) -> bool:
    """Whether a channel has more than 8 bits in the file, by the header; false once the pixels are loaded."""
    tiles = getattr(image, "tile", [])
    options = tiles[0][3] if tiles else ""
    raw = options[0] if isinstance(options, tuple) and options else options
    return image.mode.startswith("I") or "16" in str(raw)  # Pillow calls an RGB file of 16 bits plain RGB


@contextmanager
def errors_named(path: str | Path | BinaryIO) -> Iterator[None]:
    """Raises whatever Pillow raises while it reads a file as an error that names the file.

    Raises:
        DataError: If the file is missing, no image, damaged, or far too large to be decoded safely.
    """
    try:
        yield
    except LcpruneError:
        raise
    except FileNotFoundError:
        raise DataError(f"there is no image {path}", "check the path, and capitals in it") from None
    except PermissionError:
        raise DataError(f"{path} cannot be read: permission denied", "chmod u+r it, or remove it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"{path} has more than {MAX_PIXELS:,} pixels", "make the image smaller, or leave it out"
        ) from None
    except _RangeError as error:
        raise DataError(
            f"{path} cannot be read as an image: {error}", "save it with 8 or 16 bits, scaled to their whole range"
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly everything on a damaged file
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _SYSTEM_ERRORS:
            raise
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "its format is not known" if is_unknown else str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as an image: {reason}", "replace the file, or remove it") from None


def _stream(path: str | Path | BinaryIO) -> BinaryIO | nullcontext[BinaryIO]:
    return open(path, "rb") if isinstance(path, str | os.PathLike) else nullcontext(path)


def _opened(stream: BinaryIO, path: str | Path | BinaryIO, work: Callable[[Image.Image], T]) -> T:
    stream.seek(0)
    head = stream.read(HEAD_BYTES)
    if not head:
        raise ValueError("it is empty")
    formats = _decoders(head, path)
    stream.seek(0)
    with Image.open(stream, formats=formats) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        return work(image)


def _decoders(head: bytes, path: str | Path | BinaryIO) -> tuple[str, ...]:
    """The decoders for a file that begins like this.

    Raises:
        DataError: If there is none for it here.
    """
    container = container_of(head)
    if container == "HEIF":
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise DataError(
                f"{path} is a HEIC image, for which Pillow needs a plug-in",
                "pip install pillow-heif, or save it as JPEG",
            ) from None
        register_heif_opener()
    elif container == "AVIF":
        Image.init()
        if "AVIF" not in Image.OPEN:
            raise DataError(
                f"{path} is an AVIF image, which this version of Pillow does not read",
                "pip install --upgrade pillow (11.3 or newer), or save it as JPEG",
            )
    return FORMATS if container is None else (container,)


def _png_pixels(stream: BinaryIO) -> io.BytesIO | None:
    """A PNG file without its texts, profiles and times; None if the file is something else, or has none of those."""
    stream.seek(0)
    content = memoryview(stream.read())
    if content[: len(_PNG)] != _PNG:
        return None
    kept, start, dropped = [content[: len(_PNG)]], len(_PNG), False
    while start + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        chunk = content[start : start + 12 + length]
        if kind in _PNG_PIXELS:
            kept.append(chunk)
        else:
            dropped = True
        start += 12 + length
    return io.BytesIO(b"".join(kept)) if dropped else None


def _to_mode(image: Image.Image, mode: Literal["L", "RGB"], deep: bool) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        image = _upper_eight_bits(image)
    elif image.mode == "F":
        raise _RangeError("its pixels are floating-point numbers, whose range is not known")
    elif image.mode in _WITH_ALPHA or key is not None:
        if deep and isinstance(key, tuple):
            image.info["transparency"] = tuple(level >> 8 for level in key)  # as Pillow has read the pixels
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    if image.mode not in ("L", "1"):
        image = image.convert("RGB")  # by way of RGB, so that CMYK and palettes get the same weights when grey
    return image.convert(mode)


def _upper_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8; Pillow's own conversion would clip at 255."""
    if image.mode == "I" and image.format != "PNG":  # PNG has 16 at most, which some versions of Pillow read as 32
        raise _RangeError("its pixels are signed or 32-bit numbers, whose range is not known")
    deep = np.asarray(image)
    if 0 < (largest := int(deep.max(initial=0))) < 256:
        raise _RangeError(f"its 16-bit pixels reach {largest} of 65,535, of which 8 bits are black")
    upper = (deep >> 8).astype(np.uint8)
    key = image.info.get("transparency")
    return Image.fromarray(np.where(deep == key, np.uint8(0), upper) if isinstance(key, int) else upper)
