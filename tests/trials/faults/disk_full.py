"""Trains on a disk that is too small: a clear message, exit code 1, and whatever was saved before is whole.

Each trial has a tmpfs of another size, so that the disk is full at another moment: before the run begins, at the first
checkpoint, at a later one, at the weights. Then the disk grows, and the resumed run must end with the weights of an
uninterrupted one. Without the right to mount, a limit on the size of a file takes the place of the tmpfs.
"""

import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lcprune import cli, runs
from lcprune.errors import RunError
from lcprune.training import checkpoint
from tests.trials.faults.training import RECIPE, Found, differences, error_of, exit_code, failing, fork

STEPS = 70
KIB = 1024


def disk_full(scratch: Path, trials: int, seed: int) -> Found:
    """A full disk ends a training with a message and exit code 1; older checkpoints stay, and it can be resumed.

    Trains on `trials` disks of different sizes.
    """
    draws = random.Random(seed)
    (scratch / "faults.yaml").write_text(RECIPE)
    whole = scratch / "whole"
    if problem := error_of(lambda: _command(scratch, whole), scratch / "whole.txt"):
        return Found([problem])
    needed = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    mounts = _can_mount(scratch / "try")
    problems = []
    for number in range(trials):
        share = (number + draws.random()) / trials * 0.9
        size = max(16 * KIB, int(needed * share)) if mounts else int((whole / runs.PREDICTIONS).stat().st_size * share)
        disk = scratch / f"disk-{number}"
        with _disk(disk, size, mounts):
            problem = _fill_and_resume(scratch, disk, whole, None if mounts else size)
        problems.append(problem and f"disk of {size} bytes: {problem}")
    return Found(failing(problems), {"needed_bytes": needed, "tmpfs": mounts})


def _command(scratch: Path, run: Path, max_file_bytes: int | None = None) -> None:
    """`lcprune train`, or `lcprune resume` where a run is there."""
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    settings = ["--set", f"train.iterations={STEPS}", "--set", "train.evaluate_every=30"]
    resuming = (run / runs.RECIPE).is_file()
    words = ["resume", str(run)] if resuming else ["train", str(scratch / "faults.yaml"), "--out", str(run), *settings]
    sys.argv = ["lcprune", *words, "--device", "cpu", "--quiet"]
    cli.main()


def _fill_and_resume(scratch: Path, disk: Path, whole: Path, max_file_bytes: int | None) -> str:
    """What is wrong with a training on a full disk, and with resuming it."""
    run, output = disk / "run", scratch / "output.txt"
    code = exit_code(fork(lambda: _command(scratch, run, max_file_bytes), output))
    printed = output.read_text()
    if code != 1 or "Traceback" in printed or "fix: " not in printed:
        return f"exit code {code}: {printed[-300:]}"
    if "No space left on device" not in printed and "File too large" not in printed:
        return f"it does not say that the disk is full: {printed[-300:]}"
    try:
        _, complaints = checkpoint.load_newest(run / runs.CHECKPOINTS)
    except RunError as error:
        return error.problem
    if complaints:
        return f"a damaged checkpoint: {complaints}"
    if max_file_bytes is None:
        subprocess.run(["mount", "-o", "remount,size=64M", str(disk)], check=True)
    problem = error_of(lambda: _command(scratch, run), output)
    return problem or "; ".join(differences(run, whole, names=(runs.WEIGHTS,)))


def _can_mount(folder: Path) -> bool:
    with suppress(subprocess.CalledProcessError), _disk(folder, 64 * KIB, mounts=True):
        return True
    return False


@contextmanager
def _disk(folder: Path, size: int, mounts: bool) -> Iterator[None]:
    folder.mkdir()
    if mounts:
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        subprocess.run(words, check=True, capture_output=True)
    try:
        yield
    finally:
        if mounts:
            subprocess.run(["umount", str(folder)], check=True)
