"""The errors that a user can fix. Everything else is a bug and keeps its traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

from lcprune_runtime.errors import DataError as DataError
from lcprune_runtime.errors import Interrupted as Interrupted
from lcprune_runtime.errors import LcpruneError as LcpruneError
from lcprune_runtime.errors import OnnxModelError as OnnxModelError
from lcprune_runtime.errors import fix_of as fix_of
from lcprune_runtime.errors import of_system as of_system
from lcprune_runtime.errors import printable as printable


class RecipeError(LcpruneError, kind="recipe"):
    """A recipe that cannot be read or is not valid."""


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
