"""Every file in examples/ runs, as its docstring says; a folder there is an example with a test file of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
ARGUMENTS = {"digit_images.py": ["digits", "--count", "2"], "own_model.py": ["--iterations", "3"]}
"""What each example is run with, in an empty folder."""


def test_there_are_arguments_for_every_example() -> None:
    assert sorted(ARGUMENTS) == sorted(path.name for path in EXAMPLES.glob("*.py"))


def test_there_is_a_test_file_for_every_folder() -> None:
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"}
    tested = {path.name[len("test_") : -len("_example.py")] for path in HERE.glob("test_*_example.py")}
    assert folders == tested - {"every"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "own_model.py")) for name in ARGUMENTS]
)
def test_an_example_runs_and_writes_what_it_names(name: str, tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / name, *ARGUMENTS[name]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert sorted(done.stdout.split()) == written
    assert written
