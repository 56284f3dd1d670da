"""Start and export are measured; how long they take is no matter of a test."""

import sys

import pytest

from benchmarks import networks, startup


def test_commands_are_held_against_python(monkeypatch: pytest.MonkeyPatch) -> None:
    words = (sys.executable, "-c", "import time; time.sleep(0.2)")
    monkeypatch.setattr(startup, "COMMANDS", {"slow": (words, 0.1), "free": (words, None)})
    slow, free = startup.measure_commands(rounds=1)
    assert (slow["what"], slow["limit_s"], slow["met"]) == ("slow", 0.1, False)
    assert slow["median_s"] > 0.2
    assert slow["over_python"]["median"] > 1
    assert free["met"] is None


@pytest.mark.slow
def test_a_progressive_export_is_held_against_main(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.timing.WARMUP", 0)
    (row,) = startup.measure_export(networks.load("digits", ["model.width=0.0625", "critics.after=[5]"]), rounds=1)
    assert row["what"] == "progressive export of digits"
    assert 0 < row["over_main"]["median"] < 100
