"""A training so small that thousands of its steps take seconds, in processes that may be killed."""

import mmap
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lcprune import recipe as recipes
from lcprune.errors import LcpruneError
from lcprune.pipeline import train as training
from lcprune.recipe import Recipe

RECIPE = """\
name: chaos
data: {source: digits, batch_size: 8, val_size: 100, augment: crop, pad: 1}
model: {trunk: "benchmarks.chaos.tiny:build", groups: 2}
critics: {head: pooled, channels: 4, pool_to: 2, lr: 1e-3}
train: {iterations: 5000, lr: 0.02, evaluate_every: 1000, checkpoint_every: 20}
logging: {every: 10}
"""


def build(classes: int, image_shape: tuple[int, int, int]) -> nn.Sequential:
    """Two layer groups. BatchNorm has statistics, and dropout draws numbers: a resumed run must have both back."""
    first = nn.Sequential(nn.Conv2d(image_shape[0], 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    second = nn.Sequential(nn.Dropout(0.1), nn.Flatten(), nn.Linear(4 * 4 * 4, classes))
    return nn.Sequential(first, second)


def recipe(*overrides: str) -> Recipe:
    """The recipe, with ``KEY=VALUE`` of one's own."""
    return recipes.parse(RECIPE, "chaos", overrides)


class Steps:
    """A listener that lets another process see which step is done."""

    def __init__(self) -> None:
        """Memory that a forked process shares."""
        self._memory = mmap.mmap(-1, 8)

    @property
    def done(self) -> int:
        """The last step; 0 before the first."""
        return int.from_bytes(self._memory[:8], "little")

    def begin(self) -> None:
        """Forgets the steps of the process before."""
        self._memory[:8] = bytes(8)

    def stepped(self, step: int, _: Any) -> None:
        """See `Listener`."""
        self._memory[:8] = step.to_bytes(8, "little")

    def evaluated(self, _: Any) -> None:
        """See `Listener`."""


def go_on(folder: Path, *overrides: str, steps: Any = None, notice: Callable[[str], None] = lambda _: None) -> None:
    """Trains in `folder`: from the start where no run is there, or else from its newest checkpoint."""
    listener = Steps() if steps is None else steps
    common: dict[str, Any] = {"device": "cpu", "display": lambda *_: nullcontext(listener), "notice": notice}
    if (folder / "recipe.yaml").is_file():
        training.resume(folder, (), **common)
    else:
        training.train(recipe(*overrides), out=folder, data_root=folder.parent, **common)


def fork(work: Callable[[], None], output: Path | None = None) -> int:
    """Starts `work` in a process of its own and returns its id; it ends with the exit code of the command.

    Torch is imported in it already, which takes seconds in a new one. Call `alone` first.
    """
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        if output is not None:
            handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
        work()
        code = 0
    except LcpruneError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def alone(scratch: Path) -> None:
    """One thread, because what is forked beside others would wait for them; and a short training, which loads all."""
    torch.set_num_threads(1)
    if not (scratch / "warm").exists():
        go_on(scratch / "warm", "train.iterations=2")


def exit_code(process: int) -> int:
    """Waits for a process; its exit code, negative after a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
