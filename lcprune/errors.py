"""The errors that a user can fix. Everything else is a bug and keeps its traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
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


class RecipeError(LcpruneError, kind="recipe"):
    """A recipe that cannot be read or is not valid."""


class DataError(LcpruneError, kind="data"):
    """Images or labels that are missing, damaged or out of range."""


class ModelError(LcpruneError, kind="model"):
    """A network that cannot be built as the recipe says."""


class RunError(LcpruneError, kind="run"):
    """A run folder that is missing, incomplete, damaged or in the way."""


class TrainingError(LcpruneError, kind="training"):
    """Training that cannot go on, such as a loss that is no longer finite."""


class NotFiniteError(TrainingError, kind="not_finite"):
    """A loss, a gradient or a weight that is NaN or infinite."""


class ProfileError(LcpruneError, kind="profile"):
    """A network whose cost cannot be counted."""


class BudgetError(LcpruneError, kind="budget", exit_code=3):
    """No candidate meets the budget; the nearest one is named."""


class ExportError(LcpruneError, kind="export"):
    """A model that cannot be exported, or whose export differs from torch."""


class ParityError(ExportError, kind="parity"):
    """An exported file whose logits or exits are not those of torch."""


class OnnxModelError(LcpruneError, kind="onnx"):
    """An ONNX file that is damaged or was not written by lcprune."""


class Interrupted(LcpruneError, kind="interrupted", exit_code=130):  # noqa: N818
    """Ctrl-C or SIGTERM: what was done up to here is saved."""

    def __str__(self) -> str:
        return f"{self.problem}; {self.fix}"


class PeerError(LcpruneError, kind="peer"):
    """Another process of the same training that is dead, late, or at another step."""


INSTALL_TORCH = (
    "install torch and torchvision together, from the same index, into a fresh virtual environment: "
    "python -m venv .venv && .venv/bin/pip install torch torchvision"
)


class SetupError(LcpruneError, kind="setup"):
    """An installation that does not work, such as torch and torchvision that do not fit together."""


@contextmanager
def torchvision_needed() -> Iterator[None]:
    """Says how to fix an installation in which torchvision does not fit torch.

    Raises:
        SetupError: If what is imported inside cannot be.
    """
    try:
        yield
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        # RuntimeError: "operator torchvision::nms does not exist", where the two packages are of different builds.
        raise SetupError(f"torchvision does not work with the installed torch: {error}", INSTALL_TORCH) from None
