"""`lcprune report`: what it prints, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., Any]


def test_the_result_as_json(run: Path, cli: Cli) -> None:
    result = cli("report", "--no-rdm", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    content = json.loads(result.stdout)
    path = Path(content.pop("path"))
    assert path.samefile(run / "report.html")
    assert content == {"size_bytes": path.stat().st_size, "split": "test", "samples": 360}
    assert "without --no-rdm" in path.read_text(encoding="utf-8")


def test_it_says_where_it_is(run: Path, cli: Cli) -> None:
    result = cli("report", run, "--output", "mine.html")
    assert result.exit_code == 0
    assert result.stdout == f"wrote mine.html ({Path('mine.html').stat().st_size / 1000:,.0f} kB)\n"
    assert cli("report", run, "--no-rdm", "--quiet").stdout == ""
