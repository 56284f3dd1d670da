"""`--help` of every command at once, the version, and what every command understands."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

from lcprune import __version__
from lcprune.cli import app

COMMANDS = sorted(typer.main.get_command(app).commands)
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "numpy", "scipy", "matplotlib", "fvcore", "rich")


def test_there_are_commands() -> None:
    assert {"train", "resume", "profile", "select", "export", "evaluate", "predict", "bench"} <= set(COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    script = f"""
import sys
from typer.testing import CliRunner
from lcprune.cli import app
for command in {COMMANDS!r}:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0, command
    assert "Usage: " in result.stdout, command
    assert result.stderr == "", command
print(*sorted(set(sys.modules) & {set(HEAVY)!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_knows_json_and_quiet(cli: Callable[..., Any], command: str) -> None:
    text = cli(command, "-h").stdout
    assert "--json" in text
    assert "--quiet" in text


def test_version(cli: Callable[..., Any]) -> None:
    result = cli("--version")
    assert (result.exit_code, result.stdout) == (0, f"lcprune {__version__}\n")


def test_without_a_command_it_shows_the_commands(cli: Callable[..., Any]) -> None:
    result = cli()
    assert all(command in result.stdout + result.stderr for command in COMMANDS)
