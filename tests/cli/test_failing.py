"""One message and an exit code, whatever is in the message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

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
