"""The SHA-256 of a checkpoint, in the checkpoint: torch reads flipped bits without a word. No torch is needed here.

What `torch.save` writes is a ZIP archive; the digest of all that stands before it becomes the archive's comment. So it
is written in one piece with what it is about, and whatever reads such archives still does.
"""

import hashlib
import io
from typing import IO

MARK = b"lcprune sha256 "
_DIGEST_BYTES = len(MARK) + 64
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22  # with an empty comment, whose length are the last two
_CHUNK_BYTES = 1 << 20


def with_checksum(archive: io.BytesIO) -> memoryview:
    """The bytes of a ZIP archive that has no comment, with their SHA-256 as its comment."""
    archive.seek(-2, io.SEEK_END)
    archive.write(_DIGEST_BYTES.to_bytes(2, "little"))
    archive.write(MARK + hashlib.sha256(archive.getbuffer()).hexdigest().encode())
    return archive.getbuffer()


def is_intact(file: IO[bytes]) -> bool:
    """Whether an archive still has its checksum; one without a comment, of an older version, is taken as it is.

    Raises:
        OSError: If it cannot be read.
    """
    size = file.seek(0, io.SEEK_END)
    if size < _ZIP_END_BYTES + _DIGEST_BYTES:
        return False
    file.seek(-_ZIP_END_BYTES, io.SEEK_END)
    if file.read(_ZIP_END_BYTES).startswith(_ZIP_END):
        return True
    digest, left = hashlib.sha256(), size - _DIGEST_BYTES
    file.seek(0)
    while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
        digest.update(chunk)
        left -= len(chunk)
    return file.read() == MARK + digest.hexdigest().encode()
