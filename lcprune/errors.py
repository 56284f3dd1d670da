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
    """Of several processes that train together: whether this one tells the user; None: they have not agreed on it."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}\n  fix: {self.fix}"


class RecipeError(LcpruneError):
    """A recipe that cannot be read or that says something impossible."""

    kind = "recipe"


class DataError(LcpruneError):
    """Images or labels that are missing, damaged or out of range."""

    kind = "data"


class ModelError(LcpruneError):
    """A network that cannot be built as the recipe says."""

    kind = "model"


class RunError(LcpruneError):
    """A run folder that is missing, incomplete, damaged or in the way."""

    kind = "run"


class TrainingError(LcpruneError):
    """Training that cannot go on, such as a loss that is no longer finite."""

    kind = "training"


class NotFiniteError(TrainingError):
    """A loss, a gradient or a weight that is NaN or infinite."""

    kind = "not_finite"


class ProfileError(LcpruneError):
    """A network whose cost cannot be counted."""

    kind = "profile"


class BudgetError(LcpruneError):
    """No candidate meets the budget; the nearest one is named."""

    exit_code = 3
    kind = "budget"


class ExportError(LcpruneError):
    """A model that cannot be exported, or whose export differs from torch."""

    kind = "export"


class ParityError(ExportError):
    """An exported file whose logits or exits are not those of torch."""

    kind = "parity"


class OnnxModelError(LcpruneError):
    """An ONNX file that is damaged or was not written by lcprune."""

    kind = "onnx"


class Interrupted(LcpruneError):  # noqa: N818
    """Ctrl-C or SIGTERM: what was done up to here is saved."""

    exit_code = 130
    kind = "interrupted"

    def __str__(self) -> str:
        return f"{self.problem}; {self.fix}"


class PeerError(LcpruneError):
    """Another process of the same training that is gone, late, or at another step."""

    kind = "peer"


INSTALL_TORCH = (
    "install torch and torchvision together, from the same index, into a fresh virtual environment: "
    "python -m venv .venv && .venv/bin/pip install torch torchvision"
)


class SetupError(LcpruneError):
    """An installation that does not work, such as torch and torchvision that do not fit together."""

    kind = "setup"


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
