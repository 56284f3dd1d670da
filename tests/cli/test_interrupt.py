"""Ctrl-C in a process of its own: it saves, says how to go on, and exits with 130."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lcprune.reporting.progress import TrainingProgress
from lcprune.training import checkpoint
from lcprune.training.loop import LoggedStep
from lcprune_runtime import predict

START = [sys.executable, "-c", "from lcprune.cli import main; main()"]
SHORT = ("train.iterations=20", "train.checkpoint_every=5", "train.evaluate_every=10", "logging.every=2")


def test_a_run_is_saved_and_goes_on(here: Path, cli: Callable[..., Any], tiny: tuple[str, ...]) -> None:
    settings = [part for key in (*tiny, "train.iterations=20000", "logging.every=2") for part in ("--set", key)]
    command = [*START, "train", "digits", *settings, "--out", "mine"]
    metrics = here / "mine/metrics.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=300)
    step = checkpoint.load(here / "mine/checkpoints/last.pt")["step"]
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert stderr.splitlines()[-1] == f"interrupted at step {step}: saved; continue with: lcprune resume mine"
    resumed = cli("resume", "mine", "--set", f"train.iterations={step + 3}", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert f"going on from step {step}\n" in resumed.stderr
    assert json.loads(resumed.stdout)["iterations"] == step + 3
    logged = [int(found) for found in re.findall(r'"step": (\d+)', metrics.read_text())]
    assert logged == sorted(logged)
    assert logged[-1] == step + 3


def test_the_same_as_json(
    here: Path, cli: Callable[..., Any], tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: TrainingProgress, step: int, __: LoggedStep | None) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(TrainingProgress, "stepped", interrupt)
    result = cli("train", "digits", *(part for key in tiny for part in ("--set", key)), "--json")
    assert result.exit_code == 130
    assert json.loads(result.stdout)["error"] == {
        "kind": "interrupted",
        "problem": "interrupted at step 3: saved",
        "fix": "continue with: lcprune resume runs/digits-1",
    }


def test_anywhere_else_it_just_ends(here: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "predict", interrupted)
    plain, as_json = cli("predict", "a.onnx", "b.png"), cli("predict", "a.onnx", "b.png", "--json")
    assert (plain.exit_code, plain.stdout, plain.stderr) == (130, "", "interrupted; run the command again\n")
    assert as_json.exit_code == 130
    assert json.loads(as_json.stdout)["error"]["kind"] == "interrupted"


def started(name: str, tiny: tuple[str, ...], *more: str, **options: Any) -> subprocess.Popen[str]:
    """A training in a process of its own that has logged something."""
    settings = [part for key in (*tiny, "logging.every=2", *more) for part in ("--set", key)]
    command = [*START, "train", "digits", *settings, "--out", name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    metrics = Path(name) / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    return process


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP")
def test_hanging_up_saves_even_if_nobody_reads_the_messages(here: Path, tiny: tuple[str, ...]) -> None:
    """The end of a terminal, or of a connection."""
    heard = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    process = started("mine", tiny, "train.iterations=20000", preexec_fn=heard)
    assert process.stderr is not None
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=300)
    assert process.returncode == 130
    assert checkpoint.load(here / "mine/checkpoints/last.pt")["step"] > 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP")
def test_under_nohup_on_a_machine_that_sleeps_it_goes_on_and_loses_nothing(
    here: Path, train_tiny: Callable[..., Any], tiny: tuple[str, ...]
) -> None:
    plain = train_tiny(here / "plain", "logging.every=2").run
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    ignores = partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    process = started("stopped", tiny, preexec_fn=ignores, env=threads)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGSTOP)
    time.sleep(1)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert (here / "stopped/predictions.npz").is_file()
    assert (here / "stopped/weights.safetensors").read_bytes() == (plain / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, train_tiny: Callable[..., Any]) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("plain")
        patch.chdir(folder)
        run: Path = train_tiny(folder / "plain", *SHORT).run
    return run


@pytest.mark.parametrize("jump_s", [0.0, -3600.0, 1e6])
def test_a_clock_that_stands_still_or_jumps_changes_nothing(
    here: Path, train_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, plain: Path, jump_s: float
) -> None:
    readings = iter(range(10**9))
    for name in ("time", "perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, lambda: 1e6 + jump_s * next(readings))
    jumped = train_tiny(here / "jumped", *SHORT).run
    monkeypatch.undo()
    assert (jumped / "weights.safetensors").read_bytes() == (plain / "weights.safetensors").read_bytes()
