"""Ctrl-C in a process of its own: it saves, says how to go on, and exits with 130."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcprune.reporting.progress import TrainingProgress
from lcprune.training import checkpoint
from lcprune.training.loop import LoggedStep
from lcprune_runtime import predict

START = [sys.executable, "-c", "from lcprune.cli import main; main()"]


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
