"""Trains on a disk that is too small: a clear message, exit code 1, and whatever was saved before is whole.

    python -m benchmarks.chaos.disk_full [--trials 18] [--seed 0]

Each trial has a tmpfs of another size, so that the disk is full at another moment: before the run begins, at the first
checkpoint, at a later one, at the weights. Then the disk grows, the same run goes on, and its weights must be those of
a run that never stopped. Without the right to mount, the largest file that the process may write takes the tmpfs' part.
"""

import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos import promise, tiny
from lcprune import cli, runs
from lcprune.errors import RunError
from lcprune.training import checkpoint

PROMISE = "A full disk ends a training with a message and exit code 1; older checkpoints stay, and it can go on."
MODULE = "benchmarks.chaos.disk_full"
STEPS = 70
KIB = 1024


def attempt(scratch: Path, trials: int, seed: int) -> promise.Found:
    """Trains on `trials` disks of different sizes."""
    draws = random.Random(seed)
    (scratch / "chaos.yaml").write_text(tiny.RECIPE)
    whole = scratch / "whole"
    if tiny.exit_code(tiny.fork(lambda: _train(scratch, whole), scratch / "whole.txt")):
        return promise.Found(0, ((scratch / "whole.txt").read_text(),))
    needed = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    mounts = _can_mount(scratch / "try")
    failures = []
    for number in range(trials):
        share = (number + draws.random()) / trials * 0.9
        size = max(16 * KIB, int(needed * share)) if mounts else int((whole / runs.PREDICTIONS).stat().st_size * share)
        disk = scratch / f"disk-{number}"
        with _disk(disk, size, mounts):
            if failure := _one(scratch, disk, whole, None if mounts else size):
                failures.append(f"disk of {size} bytes: {failure}")
    return promise.Found(trials, tuple(failures), {"needed_bytes": needed, "tmpfs": mounts})


def _train(scratch: Path, run: Path, max_file_bytes: int | None = None) -> None:
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    settings = ["--set", f"train.iterations={STEPS}", "--set", "train.evaluate_every=30"]
    resuming = (run / runs.RECIPE).is_file()
    begin = ["resume", str(run)] if resuming else ["train", str(scratch / "chaos.yaml"), "--out", str(run), *settings]
    sys.argv = ["lcprune", *begin, "--device", "cpu", "--quiet"]
    cli.main()


def _one(scratch: Path, disk: Path, whole: Path, max_file_bytes: int | None) -> str:
    """What is wrong with a training on a full disk, and with its going on."""
    run, output = disk / "run", scratch / "output.txt"
    code = tiny.exit_code(tiny.fork(lambda: _train(scratch, run, max_file_bytes), output))
    said = output.read_text()
    if code != 1 or "Traceback" in said or "fix: " not in said:
        return f"exit code {code}: {said[-300:]}"
    if "No space left on device" not in said and "File too large" not in said:
        return f"it does not say that the disk is full: {said[-300:]}"
    try:
        _, complaints = checkpoint.load_newest(run / runs.CHECKPOINTS)
    except RunError as error:
        return error.problem
    if complaints:
        return f"a damaged checkpoint: {complaints}"
    if max_file_bytes is None:
        subprocess.run(["mount", "-o", "remount,size=64M", str(disk)], check=True)
    if code := tiny.exit_code(tiny.fork(lambda: _train(scratch, run), output)):
        return f"it cannot go on, exit code {code}: {output.read_text()[-300:]}"
    same = runs.sha256(run / runs.WEIGHTS) == runs.sha256(whole / runs.WEIGHTS)
    return "" if same else "the weights are not those of a run that never stopped"


def _can_mount(place: Path) -> bool:
    place.mkdir()
    tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64K", "tmpfs", str(place)], capture_output=True)
    if tried.returncode == 0:
        subprocess.run(["umount", str(place)], check=True)
    return tried.returncode == 0


@contextmanager
def _disk(place: Path, size: int, mounts: bool) -> Iterator[None]:
    place.mkdir()
    if not mounts:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


if __name__ == "__main__":
    sys.exit(promise.main(PROMISE, MODULE, attempt, 18))
