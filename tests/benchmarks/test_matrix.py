"""The rows of `make matrix`, without the minutes that an installation takes."""

import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import matrix

REPORT = """<testsuites><testsuite tests="9" failures="1" errors="1" skipped="2"/>
<testsuite tests="1" failures="0" errors="0" skipped="0"/></testsuites>"""


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    content = tomllib.loads((matrix.ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    rows = matrix.all_rows()
    assert [line.replace("==", ">=").removesuffix(".*") for line in rows["oldest"].requirements] == [
        line for line in content if line.startswith("torch")
    ]
    assert rows["newest"].requirements == ()
    assert [row.python for row in rows.values()] == [0, 0.5, 1]


def test_the_pythons_are_real_and_in_order() -> None:
    found = matrix.pythons()
    versions = [
        subprocess.check_output(
            [python, "-c", "import sys; print(sys.version_info[:2] >= (3, 11), sys.version_info[1])"]
        )
        for python in found
    ]
    assert versions
    assert all(version.startswith(b"True") for version in versions)
    assert [int(version.split()[1]) for version in versions] == sorted(
        {int(version.split()[1]) for version in versions}
    )


def test_tests_are_counted_over_all_suites(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert matrix.count(tmp_path / "report.xml") == (10, 1, 1, 2)
    assert matrix.count(tmp_path / "none.xml") == (0, 0, 0, 0)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be run; pip finds no torch for the newest of three Pythons."""
    called: list[list[str]] = []

    def run(command: Sequence[Any], **_: Any) -> Any:
        called.append([str(part) for part in command])
        base = next(line[0] for line in reversed(called) if "venv" in line)
        failed = "pip" in called[-1] and (base == "python3.99" or "torch==0" in called[-1])
        log = "WARNING: a\nERROR: Could not find\nERROR: No matching distribution found for torch>=2.11\n"
        return subprocess.CompletedProcess(called[-1], int(failed), "", log if failed else "")

    monkeypatch.setattr(matrix, "pythons", lambda: ["python3.11", "python3.12", "python3.99"])
    monkeypatch.setattr(matrix.subprocess, "run", run)
    return called


def test_the_newest_python_is_the_newest_with_a_torch(commands: list[list[str]], tmp_path: Path) -> None:
    assert matrix.install(tmp_path / "env/bin/python", matrix.Row((), 1)) == ""
    assert [line[0] for line in commands if "venv" in line] == ["python3.99", "python3.12"]


def test_a_row_that_cannot_be_installed_says_why(commands: list[list[str]]) -> None:
    outcome = matrix.run("oldest", matrix.Row(("torch==0",), 0), 7, ["-q"])
    assert outcome["problem"] == "not installed: No matching distribution found for torch>=2.11"
    assert not any("pytest" in line for line in commands)
    assert outcome["problem"] in matrix.table([outcome])


def test_the_table() -> None:
    versions = {"python": "3.11.7", "torch": "2.11.0", "numpy": "2.4.6"}
    outcome = {"row": "oldest", "versions": versions, "passed": 4300, "failed": 0, "skipped": 45, "problem": ""}
    assert matrix.table([{**outcome, "install_s": 180, "test_s": 1234}]).splitlines()[-1] == (
        "| `oldest` | 3.11.7 | 2.11.0 | - | 2.4.6 | - | - | 4,300 | 0 | 45 | 180 s | 1,234 s | green |"
    )
