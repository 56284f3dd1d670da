"""One message and an exit code, whatever is in the message."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from lcprune.cli import failing
from lcprune.errors import DataError, Interrupted, LcpruneError, PeerError


def test_a_terminal_gets_no_control_characters(here: Path, cli: Callable[..., Any]) -> None:
    name = "red\x1b[31m\x07.yaml"
    Path(name).write_bytes(b"\xff")
    result = cli("validate", name)
    assert result.exit_code == 1
    assert r"error: red\x1b[31m\x07.yaml " in result.stderr
    assert not {"\x1b", "\x07"} & set(result.stderr)
    assert name in json.loads(cli("validate", name, "--json").stdout)["error"]["problem"]


def failed(error: LcpruneError) -> typer.Exit:
    with pytest.raises(typer.Exit) as caught, failing.user_errors(as_json=False):
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("error", "environment", "tells", "waits"),
    [
        (DataError("no images", "get some"), {}, True, False),
        (DataError("no images", "get some"), {"RANK": "4", "LOCAL_RANK": "0"}, True, False),
        (DataError("no images", "get some"), {"RANK": "5", "LOCAL_RANK": "1"}, True, True),
        (Interrupted("interrupted", "resume"), {"RANK": "0", "LOCAL_RANK": "0"}, True, False),
        (Interrupted("interrupted", "resume"), {"RANK": "4", "LOCAL_RANK": "0"}, False, False),
    ],
)
def test_of_several_processes_one_on_each_machine_tells(
    error: LcpruneError,
    environment: dict[str, str],
    tells: bool,
    waits: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(failing.time, "sleep", waited.append)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert failed(error).exit_code == error.exit_code
    assert (error.problem in capsys.readouterr().err) is tells
    assert waited == [failing.PATIENCE_S] * waits  # in which torchrun ends it, unless the error is its alone


def test_where_they_have_agreed_one_tells(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for rank, reports in (("1", True), ("0", False)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        error = PeerError("rank 2 is dead", "resume")
        error.reports = reports
        assert failed(error).exit_code == 1
        assert capsys.readouterr().err == ("error: rank 2 is dead\n  fix: resume\n" if reports else "")


# --- what the system refuses


@pytest.mark.parametrize(
    ("error", "problem", "fix"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/a.onnx"), "/x/a.onnx: No space left", "free the disk"),
        (OSError(errno.ENOSPC, "No space left on device", b"/scratch/a"), "/scratch/a: No space left", "TMPDIR"),
        (
            PermissionError(errno.EACCES, "Permission denied", Path("a")),
            "a: Permission denied",
            "readable and writable",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files", "ulimit -n"),
        (OSError(errno.EIO, "Input/output error", "a"), "a: Input/output error", "network drive"),
        (OSError("no text"), "no text", "run the command again"),
        (ConnectionResetError(), "ConnectionResetError", "run the command again"),
        (UnicodeEncodeError("ascii", "ñ", 0, 1, "not in range"), "letters that cannot be used here", "rename"),
        (MemoryError(), "not enough memory", "batch_size"),
    ],
)
def test_an_error_of_the_system_is_one_message(
    refused: Callable[..., dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    problem: str,
    fix: str,
) -> None:
    def fail(*_: object) -> object:
        raise error

    monkeypatch.setenv("TMPDIR", "/scratch")
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("lcprune_runtime.predict.predict", fail)
    said = refused("predict", "a.onnx", "b.png")
    assert said["kind"] == "system"
    assert problem in said["problem"]
    assert fix in said["fix"]


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lcprune", *arguments], text=True, stderr=subprocess.PIPE, timeout=120, **options
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("arguments", [("recipes",), ("validate", "digits", "--json"), ("recipes", "digits")])
def test_a_full_disk_behind_stdout_is_told(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = program(*arguments, stdout=full)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.endswith("No space left on device")
    assert second.startswith("  fix: free the disk")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_behind_stderr_ends_no_training(here: Path, tiny: tuple[str, ...]) -> None:
    short = ("train.iterations=10", "train.checkpoint_every=5", "train.evaluate_every=5", "logging.every=2")
    settings = [part for key in (*tiny, *short) for part in ("--set", key)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lcprune", "train", "digits", *settings, "--out", "run"],
            stdout=subprocess.DEVNULL,
            stderr=full,
            timeout=300,
        )
    assert done.returncode == 0
    assert (here / "run/predictions.npz").is_file()


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    with subprocess.Popen(["head", "-c", "1"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as head:
        assert head.stdin is not None
        done = program("schema", stdout=head.stdin)
        head.stdin.close()
    assert "Traceback" not in done.stderr
    assert done.stderr == ""


WITHOUT_MEASURING = """
from lcprune.cli import main, recipes
recipes._step_seconds = lambda _: 1.0
main()
"""
"""The program, but for the steps of a training that `init` takes."""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_a_terminal_lacks_are_escaped(here: Path, encoding: str) -> None:
    for name in ("caf\u00e9", "\u65e5\u672c"):
        for index in range(6):
            path = here / "fotos" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), 40 * index, dtype=np.uint8)).save(path)
    command = [sys.executable, "-c", WITHOUT_MEASURING, "init", "fotos"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, timeout=120)
    assert done.returncode == 0, done.stderr
    assert rb"\u65e5\u672c" in done.stdout
    assert "caf\u00e9".encode(encoding, "backslashreplace") in done.stdout


def test_home_is_found_in_every_path(
    here: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, digit_folder: Path
) -> None:
    monkeypatch.setenv("HOME", str(here))
    assert cli("init", "~/digit-images", "--output", "~/x.yaml", "--force").exit_code in (0, 1)
    assert cli("validate", "~/none.yaml").stderr.startswith(f"error: there is no recipe {here}/none.yaml")
    assert not (here / "~").exists()
