"""The errors that a user can fix. Everything else is a bug and keeps its traceback."""

import errno
import os
from pathlib import Path
from typing import ClassVar


def printable(text: str) -> str:
    """`text` with control characters written out: names of files may hold some, and a terminal obeys them."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode() for sign in text
    )


class LcpruneError(Exception):
    """An error that the user can fix; the CLI prints it without a traceback.

    Args:
        problem: What is wrong, naming the file, key or value.
        fix: What to do about it.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"
    reports: bool | None = None
    """Of several processes that train together, whether this one prints the error; None: they have not agreed on it."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix

    def __init_subclass__(cls, kind: str, exit_code: int = 1) -> None:
        """Of a kind of errors, its name in ``--json`` and the exit code of the command."""
        super().__init_subclass__()
        cls.kind = kind
        cls.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.problem}\n  fix: {self.fix}"


class DataError(LcpruneError, kind="data"):
    """Images or labels that are missing, damaged or out of range."""


class OnnxModelError(LcpruneError, kind="onnx"):
    """An ONNX file that is damaged or was not written by lcprune."""


class Interrupted(LcpruneError, kind="interrupted", exit_code=130):  # noqa: N818
    """Ctrl-C, SIGTERM or SIGHUP: what was done up to here is saved."""

    def __str__(self) -> str:
        return f"{self.problem}; {self.fix}"


class OperatingSystemError(LcpruneError, kind="system"):
    """What the system refused: a path, the space on a disk, memory, or letters that an encoding lacks."""


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FIXES = {
    errno.EACCES: "make it readable and writable for you, or name another path",
    errno.EPERM: "make it readable and writable for you, or name another path",
    errno.EROFS: "name a path on a disk that may be written to",
    errno.ENOENT: "see that the path is there, and stays there while the command runs",
    errno.EMFILE: "allow more open files (ulimit -n 4096), and run the command again",
    errno.ENFILE: "end other programs, and run the command again",
    errno.ENOMEM: "end other programs, or use a smaller data.batch_size or smaller images",
    errno.EAGAIN: "end other programs, and run the command again",
    errno.EEXIST: "name another path, or move what is there",
    errno.ENOTDIR: "name another path: a part of this one is no folder",
    errno.EISDIR: "name a file: this is a folder",
    errno.ELOOP: "name another path: this is a link that leads back to itself",
    errno.ENAMETOOLONG: "name a shorter path",
}


def fix_of(error: OSError, path: str | Path | None = None) -> str:
    """What to do about an error of the system at `path`."""
    if error.errno in _FULL:
        import tempfile

        folder = tempfile.tempdir or os.environ.get("TMPDIR") or "/tmp"
        is_temporary = path is None or str(path).startswith(f"{folder}/")
        return "free the disk" + (f", or set TMPDIR to a folder of another one (now {folder})" if is_temporary else "")
    return _FIXES.get(error.errno or 0, "see that the disk or the network drive works, and run the command again")


def of_system(error: OSError | UnicodeError | MemoryError) -> OperatingSystemError:
    """An error of the system as one message, with its path and what to do."""
    if isinstance(error, UnicodeError):
        return OperatingSystemError(
            f"a name or a text has letters that cannot be used here: {error}", "rename what has them"
        )
    if isinstance(error, MemoryError):
        return OperatingSystemError("there is not enough memory", _FIXES[errno.ENOMEM])
    path = None if error.filename is None else os.fsdecode(error.filename)
    reason = error.strerror or str(error) or type(error).__name__
    return OperatingSystemError(reason if path is None else f"{path}: {reason}", fix_of(error, path))
