"""The suite runs its cases one by one, keeps what it has, and writes what it measured."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import bench, provenance


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Intel(R) Xeon(R) Processor 2 cores", "intel-xeon-2-cores"),
        ("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz 8 cores", "intel-core-i7-8650u-8-cores"),
        ("NVIDIA H200", "nvidia-h200"),
    ],
)
def test_a_machine_has_a_plain_name(name: str, expected: str) -> None:
    assert provenance.slug(name) == expected


def test_a_missing_package_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    assert provenance.provenance("x", 0)["versions"]["no-such-package"] == "not installed"


def test_all_parts_are_there_and_a_case_can_be_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = bench.all_parts()
    assert list(parts) == ["speed", "methods", "memory", "memory time", "analysis", "start", "export"]
    assert all(parts.values())
    monkeypatch.setattr(bench, "all_parts", lambda: {"start": {"commands": lambda: [{"a": 1}]}})
    bench.main(["--case", "start", "commands"])
    assert json.loads(capsys.readouterr().out) == [{"a": 1}]


def test_parts_are_written_when_complete_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"one": [{"what": "a", "over_main": {"median": 1, "low": 1, "high": 1}}], "two": []}
    monkeypatch.setattr(bench, "_rows", lambda _, name: answers[name])
    path = tmp_path / "results" / "machine.json"
    path.parent.mkdir()
    path.write_text('{"other": {"kept": true}}')
    assert bench.run({"export": ["one"], "start": ["two"]}, path) == ["start: two"]
    written = json.loads(path.read_text())
    assert list(written) == ["other", "export"]
    assert written["other"] == {"kept": True}
    assert written["export"]["rows"] == answers["one"]
    assert {"command", "seed", "machine", "versions", "load"} < set(written["export"])


@pytest.mark.parametrize(
    ("code", "stdout", "expected"), [(0, '[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]), (1, "", [])]
)
def test_a_case_is_a_process(
    code: int, stdout: str, expected: list[bench.Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        words.extend(command[1:])
        return subprocess.CompletedProcess(command, code, stdout)

    monkeypatch.setattr(bench.subprocess, "run", run)
    assert bench._rows("start", "commands") == expected
    assert words == ["-m", "benchmarks.bench", "--case", "start", "commands"]


def test_the_row_of_the_analysis_names_no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = '{"a": 1, "seed": 0, "machine": {}, "versions": {}, "command": "x"}'
    monkeypatch.setattr(bench.subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 0, printed))
    assert bench._analysis() == [{"a": 1}]
