"""The SHA-256 of a checkpoint, inside the checkpoint, because torch does not detect flipped bits. Needs no torch.

A file of `torch.save` is a ZIP archive; the digest of everything before the comment is the archive's comment. So file
and checksum are one, and any reader of such archives can still read it.
"""

import hashlib
import io
from pathlib import Path

MARK = b"lcprune sha256 "
_DIGEST_BYTES = len(MARK) + 64
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22  # with an empty comment; the last two are its length


def with_checksum(archive: io.BytesIO) -> bytes:
    """The bytes of a ZIP archive that has no comment, with their SHA-256 as its comment.

    Not a view, as of `BytesIO.getbuffer`: one in a reference cycle crashes the garbage collector of some versions of
    Python, or makes it raise (python/cpython issues 111049 and 111331).
    """
    archive.seek(-2, io.SEEK_END)
    archive.write(_DIGEST_BYTES.to_bytes(2, "little"))
    content = archive.getvalue()
    return b"".join((content, MARK, hashlib.sha256(content).hexdigest().encode()))


def is_intact(path: Path) -> bool:
    """Whether an archive matches its checksum; one without a comment, of an older version, is accepted.

    Raises:
        OSError: If it cannot be read.
    """
    content = memoryview(path.read_bytes())
    if len(content) < _ZIP_END_BYTES + _DIGEST_BYTES:
        return False
    if content[-_ZIP_END_BYTES:].tobytes().startswith(_ZIP_END):
        return True
    digest = hashlib.sha256(content[:-_DIGEST_BYTES]).hexdigest().encode()
    return content[-_DIGEST_BYTES:].tobytes() == MARK + digest
