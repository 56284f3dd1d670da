"""The suite runs its cases one by one, keeps what it has, and writes what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import bench, networks, provenance


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


def test_commands_are_held_against_python(monkeypatch: pytest.MonkeyPatch) -> None:
    words = (sys.executable, "-c", "import time; time.sleep(0.2)")
    monkeypatch.setattr(bench, "COMMANDS", {"slow": (words, 0.1), "free": (words, None)})
    slow, free = bench.measure_commands(rounds=1)
    assert (slow["what"], slow["limit_s"], slow["met"]) == ("slow", 0.1, False)
    assert slow["median_s"] > 0.2
    assert slow["over_python"]["median"] > 1
    assert free["met"] is None


@pytest.mark.slow
def test_a_progressive_export_is_held_against_main(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.timing.WARMUP", 0)
    (row,) = bench.measure_export(networks.load("digits", ["model.width=0.0625", "critics.after=[5]"]), rounds=1)
    assert row["what"] == "progressive export of digits"
    assert 0 < row["over_main"]["median"] < 100
