"""A training so small that thousands of its steps take seconds, in processes that may be killed."""

import mmap
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.errors import LcpruneError
from lcprune.pipeline import train as training

RECIPE = f"""\
name: faults
data: {{source: digits, batch_size: 8, val_size: 100, augment: crop, pad: 1}}
model: {{trunk: "{__name__}:build", groups: 2}}
critics: {{head: pooled, channels: 4, pool_to: 2, lr: 1e-3}}
train: {{iterations: 5000, lr: 0.02, evaluate_every: 1000, checkpoint_every: 20}}
logging: {{every: 10}}
"""
STUCK_S = 120.0


@dataclass(frozen=True)
class Found:
    """What the trials of one promise found."""

    failures: Sequence[str]
    figures: dict[str, Any] = field(default_factory=dict)
    """What was measured besides."""


def build(classes: int, image_shape: tuple[int, int, int]) -> nn.Sequential:
    """Two layer groups with BatchNorm's statistics and dropout's random numbers, which a checkpoint must restore."""
    first = nn.Sequential(nn.Conv2d(image_shape[0], 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    second = nn.Sequential(nn.Dropout(0.1), nn.Flatten(), nn.Linear(4 * 4 * 4, classes))
    return nn.Sequential(first, second)


def failing(problems: Iterable[str]) -> list[str]:
    """What was wrong with which trial; the problem of a trial without one is empty."""
    return [f"trial {number}: {problem}" for number, problem in enumerate(problems, start=1) if problem]


class Steps:
    """A listener that shares the number of the last step, 0 before the first, with the process that forked this one."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    @property
    def done(self) -> int:
        """The last step."""
        return int.from_bytes(self._memory[:8], "little")

    def reach(self, step: int) -> bool:
        """Whether that step is done within two minutes."""
        started = time.perf_counter()
        while self.done < step and time.perf_counter() - started < STUCK_S:
            time.sleep(0.0002)
        return self.done >= step

    def stepped(self, step: int, _: Any) -> None:
        """See `Listener`."""
        self._memory[:8] = step.to_bytes(8, "little")

    def evaluated(self, _: Any) -> None:
        """See `Listener`."""


def train(
    folder: Path,
    *overrides: str,
    listener: Any = None,
    notice: Callable[[str], None] = lambda _: None,
    longer: Sequence[str] = (),
) -> None:
    """Trains in `folder`: a new run, or from the newest checkpoint of the one that is there, with `longer` settings."""
    watching = Steps() if listener is None else listener
    common: dict[str, Any] = {"device": "cpu", "display": lambda *_: nullcontext(watching), "notice": notice}
    if (folder / runs.RECIPE).is_file():
        training.resume(folder, longer, **common)
    else:
        training.train(recipes.parse(RECIPE, "faults", overrides), out=folder, data_root=folder.parent, **common)


def fork(work: Callable[[], None], output: Path) -> int:
    """Starts `work` in a forked process, its output in a file; returns its id. It ends as the command would.

    Torch is imported in it already, which takes seconds in a new process. Call `prepare` first.
    """
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 70
    try:
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


def exit_code(process: int) -> int:
    """Waits for a process; its exit code, negative after a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def error_of(work: Callable[[], None], output: Path) -> str:
    """What `work` printed if it failed in a process of its own; empty if it succeeded."""
    code = exit_code(fork(work, output))
    return f"exit code {code}: {output.read_text()[-300:]}" if code else ""


def prepare(scratch: Path) -> None:
    """One thread, as a forked process would wait for other threads; a short training imports everything."""
    torch.set_num_threads(1)
    if not (scratch / "first").exists():
        train(scratch / "first", "train.iterations=2")


def differences(run: Path, uninterrupted: Path, names: Sequence[str] = (runs.WEIGHTS, runs.PREDICTIONS)) -> list[str]:
    """Files that are not those of the uninterrupted run."""
    different = [name for name in names if runs.sha256(run / name) != runs.sha256(uninterrupted / name)]
    return [f"{name} differs from the uninterrupted run" for name in different]
