"""Makes the system refuse one call of a command: it must end with one message, and leave nothing half-written.

Patched are `os` and `open`, and reading and writing of the files that they open, for paths in the folder of the trial;
so Python's own imports are spared. A command runs once to count its calls, and then once for each call that fails.
"""

import builtins
import errno
import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lcprune import cli, runs
from lcprune import recipe as recipes
from lcprune_runtime.session import ProgressiveSession
from tests.trials.faults.training import Found, exit_code, failing, fork

RECIPE = """\
name: photos
data: {source: imagefolder, root: photos, image_size: 16, val_size: 6, test_size: 6, batch_size: 6}
model: {width: 0.0625}
critics: {head: pooled, channels: 4}
train: {iterations: 4, method: deep_supervision, evaluate_every: 2, checkpoint_every: 2}
"""
MODEL = "run/export/progressive.onnx"
COMMANDS = (
    "init photos --output new.yaml",
    "train r.yaml --out new",
    "train r.yaml --out new --set data.cache=disk --set data.stream=always",
    "resume run --set train.iterations=6",
    "select run --max-drop 50",
    "evaluate run",
    "evaluate run --flip",
    f"evaluate {MODEL} --data photos",
    f"predict {MODEL} photos --save-grid sheet.png",
    f"predict {MODEL} photos --on-bad-image skip --json",
    f"bench {MODEL} --data photos",
    "report run --no-rdm --output page.html",
    "verify run",
    "validate r.yaml",
    "export run --format onnx --exit 1 --output one.onnx",
)
CALLS = ("open", "stat", "lstat", "scandir", "listdir", "mkdir", "replace", "rename", "unlink", "rmdir", "fsync")
ERRORS = (errno.EACCES, errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ENOENT, errno.ESTALE, errno.EROFS)


def system(scratch: Path, trials: int, seed: int) -> Found:
    """A call that the system refuses ends any command with a message and exit code 1, and nothing is half-written."""
    draws = random.Random(seed)
    whole = scratch / "whole"
    _prepare(whole)
    counts = {}
    for command in COMMANDS:
        problem, counts[command] = _trial(scratch, whole, command, -1, 0)
        if problem:
            return Found([f"without a fault, {command}: {problem}"])
    chosen = [(command, number) for command in COMMANDS for number in range(counts[command])]
    problems = []
    for command, number in draws.sample(chosen, min(trials, len(chosen))):
        error = draws.choice(ERRORS)
        problem, _ = _trial(scratch, whole, command, number, error)
        problems.append(problem and f"{command}, call {number} of {counts[command]} ({os.strerror(error)}): {problem}")
    return Found(failing(problems), {"calls": len(chosen)})


def _prepare(folder: Path) -> None:
    """Photographs, a recipe, a finished run and an export of it."""
    draw = np.random.default_rng(0)
    for index in range(36):
        path = folder / "photos" / "abc"[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    (folder / "r.yaml").write_text(RECIPE)
    for command in ("train r.yaml --out run", "export run --format onnx --progressive --threshold 0.5"):
        output = folder.with_name("prepared.txt")
        if code := exit_code(fork(partial(_command, folder, command), output)):
            raise RuntimeError(f"{command}: exit code {code}: {output.read_text()}")


def _trial(scratch: Path, whole: Path, command: str, number: int, error: int) -> tuple[str, int]:
    """What is wrong after a command of which call `number` fails, and how many calls it made."""
    folder, output, counted = scratch / "trial", scratch / "output.txt", scratch / "counted.txt"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)

    def work() -> None:
        faults = _Faults(folder, number, error)
        try:
            with faults:
                _command(folder, command)
        finally:
            counted.write_text(str(faults.calls))

    code, printed = exit_code(fork(work, output)), output.read_text()
    calls = int(counted.read_text())
    if "Traceback" in printed or code not in ((0,) if number < 0 else (0, 1)):
        return f"exit code {code}: {printed[-1500:]}", calls
    plain, as_json = ("error: ", "  fix: "), ('{"error": ', '"fix": ')
    if code and not any(all(part in printed for part in form) for form in (plain, as_json)):
        return f"no message: {printed[-300:]}", calls
    if _changed(folder) and code:  # between a file and its record: the same command makes both anew
        code = exit_code(fork(lambda: _command(folder, command), output))
    return _half_written(folder) or (f"the same command again: exit code {code}" * (code > 1)), calls


def _command(folder: Path, command: str) -> None:
    os.chdir(folder)
    os.environ |= {"LCPRUNE_CACHE": str(folder / "cache"), "TMPDIR": str(folder)}
    device = ["--device", "cpu"] if command.split()[0] in ("train", "resume") else []
    sys.argv = ["lcprune", *command.split(), *device]
    cli.main()


def _half_written(folder: Path) -> str:
    """The first file with its own name that is not whole."""
    checks: dict[str, Callable[[Path], Any]] = {
        ".json": lambda path: json.loads(path.read_text()),
        ".yaml": recipes.load,
        ".onnx": ProgressiveSession,
        ".npz": lambda path: np.load(path)["val_logits"],
        ".png": lambda path: Image.open(path).load(),
        ".html": lambda path: path.read_text().rindex("</html>"),
    }
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in checks and not path.name.startswith("."):
            try:
                checks[path.suffix](path)
            except Exception as error:
                return f"{path.relative_to(folder)} is half-written: {error}"
    return _changed(folder)


def _changed(folder: Path) -> str:
    """What of a run is not what its manifest says."""
    for run in (folder / "run", folder / "new"):
        if changed := runs.changed_files(run) if (run / runs.MANIFEST).is_file() else []:
            return f"{run.name}: {changed} changed since they were recorded"
    return ""


class _Faults:
    """Inside, call `number` that concerns a path in `folder` fails; all are counted."""

    def __init__(self, folder: Path, number: int, error: int) -> None:
        self.calls = 0
        self._folder = str(folder)
        self._number = number
        self._error = error
        self._real: dict[str, Any] = {}

    def __enter__(self) -> None:
        self._real = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:
            setattr(os, name, self._refusing(self._real[name]))
        self._open = io.open
        io.open = builtins.open = self._opened  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        io.open = builtins.open = self._open
        for name, real in self._real.items():
            setattr(os, name, real)

    def count(self, path: object = None) -> None:
        """A call; the chosen one fails."""
        self.calls += 1
        if self.calls - 1 == self._number:
            raise OSError(self._error, os.strerror(self._error), path)

    def _concerns(self, path: object) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and os.path.join(os.getcwd(), os.fsdecode(path)).startswith(
            self._folder
        )

    def _refusing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if arguments and (real is self._real["fsync"] or self._concerns(arguments[0])):
                self.count(arguments[0])
            return real(*arguments, **options)

        return call

    def _opened(self, file: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, int) or not self._concerns(file):
            return self._open(file, *arguments, **options)
        self.count(file)
        return _File(self._open(file, *arguments, **options), self)


class _File:
    """A file whose reading and writing are calls, too."""

    def __init__(self, file: Any, faults: _Faults) -> None:
        self._file = file
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def read(self, *arguments: Any) -> Any:
        """As that of the file."""
        self._faults.count(self._file.name)
        return self._file.read(*arguments)

    def write(self, content: Any) -> Any:
        """As that of the file."""
        self._faults.count(self._file.name)
        return self._file.write(content)
