"""Every file in examples/ runs, as its docstring says."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ARGUMENTS = {"digit_images.py": ["digits", "--count", "2"]}
"""What each example is run with, in an empty folder."""


def test_there_are_arguments_for_every_example() -> None:
    assert sorted(ARGUMENTS) == sorted(path.name for path in EXAMPLES.glob("**/*.py"))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_example_runs_and_writes_what_it_names(name: str, tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / name, *ARGUMENTS[name]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert sorted(done.stdout.split()) == written
    assert written
