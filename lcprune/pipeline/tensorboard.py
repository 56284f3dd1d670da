"""``tensorboard/`` of a run: what ``metrics.jsonl`` has, for TensorBoard and what reads its files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcprune.errors import SetupError
from lcprune.training.loop import Evaluation, Listener, LoggedStep


def require_tensorboard() -> Any:
    """`torch.utils.tensorboard`.

    Raises:
        SetupError: If the package tensorboard is missing.
    """
    try:
        from torch.utils import tensorboard
    except ImportError as error:
        raise SetupError(
            f"logging.tensorboard needs the package tensorboard: {error}",
            "pip install tensorboard, or leave logging.tensorboard out",
        ) from None
    return tensorboard


class TensorBoard:
    """Writes losses, accuracies, learning rate and speed, and passes everything on."""

    def __init__(self, folder: Path, step: int, exit_names: Sequence[str], shown: Listener) -> None:
        """TensorBoard ignores what `folder` has after `step`: a resumed run writes it again."""
        self._writer = require_tensorboard().SummaryWriter(str(folder), purge_step=step + 1)
        self._exit_names = exit_names
        self._shown = shown

    def stepped(self, step: int, logged: LoggedStep | None) -> None:
        """See `Listener`."""
        if logged is not None:
            self._add("loss", logged.loss, step)
            self._add("critic_loss", logged.critic_loss, step)
            self._writer.add_scalar("training/lr", logged.lr, step)
            self._writer.add_scalar("training/images_per_s", logged.images_per_s, step)
            self._writer.flush()
        self._shown.stepped(step, logged)

    def evaluated(self, evaluation: Evaluation) -> None:
        """See `Listener`."""
        self._add(f"{evaluation.split}_accuracy_pct", evaluation.accuracy_pct, evaluation.step)
        if evaluation.test_accuracy_pct is not None:
            self._add("test_accuracy_pct", evaluation.test_accuracy_pct, evaluation.step)
        self._writer.flush()
        self._shown.evaluated(evaluation)

    def _add(self, group: str, values: Sequence[float], step: int) -> None:
        """One curve for each exit; critics have those of their sub-models."""
        for name, value in zip(self._exit_names, values, strict=False):
            self._writer.add_scalar(f"{group}/{name}", value, step)
