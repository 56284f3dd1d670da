"""The errors that a user can fix. Everything else is a bug and keeps its traceback."""

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
    """Ctrl-C or SIGTERM: what was done up to here is saved."""

    def __str__(self) -> str:
        return f"{self.problem}; {self.fix}"
