"""From a request to pixels. Every limit is checked before the work that it limits: before the body is read whole, and
before an image is decoded."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from PIL import Image
from refusal import RefusalError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException  # FastAPI's is a child of it
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from lcprune.errors import DataError
from lcprune_runtime.images import read_prepared
from lcprune_runtime.metadata import InputInfo

FORMATS = {"image/bmp": "BMP", "image/gif": "GIF", "image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
FORM = "multipart/form-data"
PLAIN = "application/octet-stream"  # what clients send that do not know the type
CLOSE = {"Connection": "close"}  # the rest of the body is not wanted


@dataclass(frozen=True)
class Limits:
    """What the service takes on. A request beyond it is refused."""

    body_bytes: int = 10 * 2**20
    image_pixels: int = 25_000_000
    """Of one image, by its header: some kilobytes of PNG may decode to gigabytes."""
    images: int = 16
    """In one request."""
    requests: int = 32
    """At once, those that wait included."""
    timeout_s: float = 10.0
    """From the first byte of the body to the answer."""


@dataclass(frozen=True)
class Upload:
    """An image as it came."""

    name: str
    """For messages and the answer; never used as a path."""
    content: bytes


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """The images of a request: its whole body, or the files of a form.

    Raises:
        RefusalError: If there is none, or too much, or it is of a type that is not taken.
    """
    kind = _plain_type(request.headers.get("content-type", ""))
    if kind != FORM:
        _check_type(kind)
    with contextlib.suppress(ValueError):  # a length that is no number is not believed; the bytes are counted anyway
        if int(request.headers.get("content-length", "")) > limits.body_bytes:
            raise _too_long(limits)
    limited = Request(request.scope, _counted(request.receive, limits))
    try:
        if kind == FORM:
            return await _read_form(limited, limits)
        body = await limited.body()
    except ClientDisconnect:
        raise RefusalError(400, "disconnected", "the connection ended before the body did") from None
    if not body:
        raise RefusalError(400, "bad_form", "the body is empty")
    return [Upload("image", body)]


def decode(upload: Upload, wanted: InputInfo, limits: Limits) -> NDArray[np.uint8]:
    """One image as the model wants it, ``(C, H, W)``, 0 to 255.

    Raises:
        RefusalError: If it is damaged, no image, of a format that is not taken, or has too many pixels.
    """
    damaged = RefusalError(400, "bad_image", f"{upload.name} is damaged, or no image of a kind that is taken here")
    too_large = RefusalError(413, "too_large", f"{upload.name} has more than {limits.image_pixels:,} pixels")
    try:
        # formats: only the decoders that are named above read untrusted input
        with Image.open(io.BytesIO(upload.content), formats=list(FORMATS.values())) as image:
            pixels = image.width * image.height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large from None
    except Exception:  # Pillow's decoders raise nearly everything on a damaged file
        raise damaged from None
    if pixels > limits.image_pixels:
        raise too_large
    try:
        return read_prepared(io.BytesIO(upload.content), wanted.preparation)
    except DataError:
        raise damaged from None


async def _read_form(request: Request, limits: Limits) -> list[Upload]:
    try:
        async with request.form(max_files=limits.images, max_fields=0) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            for file in files:
                _check_type(_plain_type(file.content_type or PLAIN))
            uploads = [
                Upload((file.filename or f"image {number}")[:100], await file.read())
                for number, file in enumerate(files, 1)
            ]
    except HTTPException as error:
        raise RefusalError(400, "bad_form", str(error.detail), CLOSE) from None
    if not uploads:
        raise RefusalError(400, "bad_form", "the form has no file")
    return uploads


def _counted(receive: Receive, limits: Limits) -> Receive:
    """`receive`, which stops when the body gets too long."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limits.body_bytes:
            raise _too_long(limits)
        return message

    return limited


def _too_long(limits: Limits) -> RefusalError:
    return RefusalError(413, "too_large", f"the body has more than {limits.body_bytes:,} bytes", CLOSE)


def _plain_type(header: str) -> str:
    """Without its parameters."""
    return header.partition(";")[0].strip().lower()


def _check_type(kind: str) -> None:
    if kind != PLAIN and kind not in FORMATS:
        taken = ", ".join([*FORMATS, PLAIN, FORM])
        problem = f"{kind[:100]} is not taken" if kind else "the content type is missing"
        raise RefusalError(415, "wrong_type", f"{problem}; send {taken}", CLOSE)
