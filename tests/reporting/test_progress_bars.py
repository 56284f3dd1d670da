"""Progress bars of loops, which only a terminal has."""

import io
from typing import Any

import pytest
from rich.console import Console

from lcprune.cli import output
from lcprune.reporting import progress_bars
from lcprune_runtime.progress import shown_by, tracked


def test_without_anybody_to_show_it_a_loop_is_what_it_was() -> None:
    items = [1, 2, 3]
    assert tracked(items, "counting") is items


def test_whoever_shows_it_gets_every_item_and_is_forgotten_afterwards() -> None:
    with shown_by(lambda items, what: [(what, item) for item in items]):
        assert list(tracked(range(2), "counting")) == [("counting", 0), ("counting", 1)]
    assert list(tracked(range(2), "counting")) == [0, 1]


def test_a_terminal_has_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    monkeypatch.setattr(progress_bars, "REDRAW_S", 0)
    monkeypatch.setattr(progress_bars, "Console", lambda file: Console(file=drawn, force_terminal=True, width=80))
    with progress_bars.loops_shown():
        assert list(tracked(range(3), "calibrating")) == [0, 1, 2]
        assert [list(tracked("ab", "inner")) for _ in tracked(range(2), "outer")] == [["a", "b"], ["a", "b"]]
    text = drawn.getvalue()
    assert all(part in text for part in ("calibrating", "0/3", "1/3", "3/3", "outer", "inner"))
    after = text.rpartition("2/2")[2]
    assert "\x1b[2K" in after  # the last line is erased
    assert "outer" not in after


@pytest.mark.parametrize("silent", [False, True])
def test_elsewhere_there_is_none(silent: bool, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[Any] = []
    with output.loops_shown(silent):
        shown += tracked(range(3), "calibrating")
    assert shown == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
