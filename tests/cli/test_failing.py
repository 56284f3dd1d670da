"""One message and an exit code, whatever is in the message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_a_terminal_gets_no_control_characters(here: Path, cli: Callable[..., Any]) -> None:
    name = "red\x1b[31m\x07.yaml"
    Path(name).write_bytes(b"\xff")
    result = cli("validate", name)
    assert result.exit_code == 1
    assert r"error: red\x1b[31m\x07.yaml " in result.stderr
    assert not {"\x1b", "\x07"} & set(result.stderr)
    assert name in json.loads(cli("validate", name, "--json").stdout)["error"]["problem"]
