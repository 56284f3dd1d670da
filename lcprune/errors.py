"""The errors that a user can mend. Everything else is a bug and keeps its traceback."""

from typing import ClassVar


class LcpruneError(Exception):
    """An error that the user can mend; the CLI prints it without a traceback.

    Args:
        problem: What is wrong, naming the file, key or value.
        fix: What to do about it.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"

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


class OnnxModelError(LcpruneError):
    """An ONNX file that is damaged or was not written by lcprune."""

    kind = "onnx"


class Interrupted(LcpruneError):  # noqa: N818
    """Ctrl-C or SIGTERM: what was done up to here is saved."""

    exit_code = 130
    kind = "interrupted"

    def __str__(self) -> str:
        return f"{self.problem}; {self.fix}"


class SetupError(LcpruneError):
    """An installation that does not work, such as torch and torchvision that do not fit together."""

    kind = "setup"
