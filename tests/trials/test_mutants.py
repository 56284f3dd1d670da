"""Mutation testing finds what no test notices, and explanations are matched to it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trials.mutants import __main__ as mutants

CHANGE = "-    return x < 1\n+    return x <= 1"
RULES = [
    {"place": "a:g", "change": "<=", "why": "another function"},
    {"place": "a:*", "change": r"x < 1.*x <= 1", "why": "1 never comes"},
]


def test_a_survivor_without_an_explanation_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mutants, "FOLDER", tmp_path)
    monkeypatch.setattr(mutants, "JUDGED", tmp_path / "judged.json")
    diff = f"--- lcprune/a.py\n+++ lcprune/a.py\n@@ -1,2 +1,2 @@\n def f(x):\n{CHANGE}"
    monkeypatch.setattr(mutants, "get_diff_for_mutant", lambda _, path: diff)
    codes = {f"lcprune.a.x_f__mutmut_{number}": code for number, code in enumerate((0, None, 1, 36))}
    codes["lcprune.a.xǁBoxǁopen__mutmut_12"] = 0
    (tmp_path / "lcprune").mkdir()
    (tmp_path / "lcprune/a.py.meta").write_text(json.dumps({"exit_code_by_key": codes}))
    for rules, code in ((RULES, 0), (RULES[:1], 1)):
        mutants.JUDGED.write_text(json.dumps(rules))
        assert mutants.main() == code
        printed = capsys.readouterr().out
        assert printed.startswith("lcprune/a.py: 1 were not tried yet\n")
        for name in ("x_f__mutmut_0", "xǁBoxǁopen__mutmut_12"):
            assert (f"not explained: lcprune.a.{name}\n{CHANGE}\n" in printed) is bool(code)


FILES = {
    "lcprune/analysis/a.py": "def positive(x):\n    return x > 0\n\n\ndef double(x):\n    return 2 * x\n",
    "lcprune/__init__.py": "",
    "lcprune/analysis/__init__.py": "",
    "tests/test_a.py": "from lcprune.analysis.a import positive\n\n\ndef test_positive():\n    assert positive(2)\n",
    "pyproject.toml": '[tool.mutmut]\nsource_paths = ["lcprune"]\npytest_add_cli_args = ["-p", "no:randomly"]\n',
}


@pytest.mark.slow
def test_a_change_that_no_test_notices_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    command = [sys.executable, "-m", "mutmut", "run"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert mutants.main() == 1, done.stdout + done.stderr
    printed = capsys.readouterr().out
    assert "-    return x > 0\n+    return x >= 0" in printed
    assert "-    return 2 * x\n+    return 2 / x" in printed  # no test calls it
