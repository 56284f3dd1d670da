"""What the mutation check says, and that it finds what no test notices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import mutation

REPOSITORY = Path(__file__).parents[2]
DIFF = """--- lcprune/a.py
+++ lcprune/a.py
@@ -1,2 +1,2 @@
 def f(x):
-    return x < 1
+    return x <= 1"""
RULES = [
    {"place": "a:g", "change": "<=", "why": "another function"},
    {"place": "a:*", "change": r"x < 1.*x <= 1", "why": "1 never comes"},
]


def test_counts_are_those_of_the_files(tmp_path: Path) -> None:
    codes = {"a": 1, "b": 0, "c": None, "d": 36, "e": -24, "f": 33, "g": 3, "h": -11}
    path = tmp_path / "mutants" / "lcprune" / "a.py.meta"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"exit_code_by_key": codes}))
    (path.parent / "b.py.meta").write_text(json.dumps({"exit_code_by_key": {}}))
    [(row, names)] = mutation.counted(tmp_path)
    assert row == {
        "module": "lcprune/a.py",
        "made": 8,
        "killed": 3,
        "timeout": 2,
        "survived": 1,
        "no_test": 1,
        "not_run": 1,
    }
    assert names == ["b", "f"]  # what no test reaches survives, too


@pytest.mark.parametrize(
    ("name", "place", "judged"),
    [
        ("lcprune.a.x_f__mutmut_3", "a:f", "1 never comes"),
        ("lcprune.a.xǁBoxǁopen__mutmut_12", "a:Box.open", "1 never comes"),
    ],
)
def test_a_survivor_is_judged_by_its_function_and_its_change(name: str, place: str, judged: str) -> None:
    found = mutation.survivor(name, "lcprune/a.py", lambda *_: DIFF, RULES)
    assert (found["place"], found["judged"]) == (place, judged)
    assert found["change"] == "-    return x < 1\n+    return x <= 1"
    assert mutation.survivor(name, "lcprune/a.py", lambda *_: DIFF, RULES[:1])["judged"] is None


def test_the_tables() -> None:
    row = {"module": "lcprune/a.py", "made": 1106, "killed": 1100, "timeout": 2, "survived": 3, "no_test": 1}
    survivors = [{"place": "a:f", "judged": "1 never comes"}] * 3 + [{"place": "a:g", "judged": None}]
    text = mutation.tables({"modules": [row], "survivors": survivors})
    assert "| `lcprune/a.py` | 1,106 | 1,102 | 4 |" in text
    assert "| 1 never comes | 3 | `a:f` |" in text
    assert "| not judged yet | 1 | `a:g` |" in text


def test_a_part_leaves_the_tables_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, page = tmp_path / "mutants" / "lcprune" / "a.py.meta", tmp_path / "page.md"
    path.parent.mkdir(parents=True)
    page.write_text(f"{mutation.BEGIN}\n{mutation.END}\n")
    monkeypatch.setattr(mutation, "RESULT", tmp_path / "mutation.json")
    monkeypatch.setattr(mutation, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["mutation", str(tmp_path)])
    for code, written in ((None, False), (1, True)):
        path.write_text(json.dumps({"exit_code_by_key": {"a": 1, "b": code}}))
        assert mutation.main() == 0
        assert (mutation.RESULT.exists(), "| `lcprune/a.py` | 2 | 2 | 0 |" in page.read_text()) == (written, written)
        assert ("1 changes were not tried yet" in capsys.readouterr().out) is not written


def test_the_tables_are_those_of_the_results() -> None:
    page = mutation.PAGE.read_text(encoding="utf-8")
    if not mutation.RESULT.exists():
        assert "| module | changes |" not in page
        return
    result = json.loads(mutation.RESULT.read_text(encoding="utf-8"))
    assert mutation.with_tables(page, result) == page


SOURCE = "def positive(x):\n    return x > 0\n\n\ndef double(x):\n    return 2 * x\n"
TEST = "from lcprune.analysis.a import double, positive\n\n\ndef test_positive():\n    assert positive(2)\n"
SETTINGS = '[tool.mutmut]\nsource_paths = ["lcprune"]\n'
RUN = """
import sys
from pathlib import Path
from benchmarks import mutants
mutants.ROOT = Path(sys.argv[1])
mutants.COPIED = ("lcprune", "tests", "pyproject.toml")
mutants.TARGETS = {"lcprune/analysis": ("tests/analysis",)}
sys.argv = ["", sys.argv[2]]
sys.exit(mutants.main())
"""


def test_a_change_that_no_test_notices_survives(tmp_path: Path) -> None:
    tree, folder = tmp_path / "tree", tmp_path / "out"
    files = {"lcprune/analysis/a.py": SOURCE, "tests/analysis/test_a.py": TEST, "pyproject.toml": SETTINGS}
    files |= {"lcprune/__init__.py": "", "lcprune/analysis/__init__.py": ""}
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(tree), str(folder)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [(row, survivors)] = mutation.counted(folder)
    changes = {mutation.survivor(n, row["module"], mutation.diff_in(folder), [])["change"] for n in survivors}
    assert (row["killed"], row["no_test"], row["not_run"]) == (0, 2, 0)  # nobody calls double
    assert "-    return x > 0\n+    return x >= 0" in changes
    assert "-    return 2 * x\n+    return 2 / x" in changes
