"""Which options the fix of an error may name."""

import re

import typer

from lcprune.cli import app

COMMANDS = {
    name: {option for parameter in command.params for option in parameter.opts}
    for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
}
OF_OTHERS = re.compile(r"(torchrun|pip|make|python -m venv)\b[^;,:]*")
"""Commands of others, up to what follows them."""


def unknown_options(fix: str, command: str | None) -> list[str]:
    """Options in a fix that the command has not that is named before them, else `command`, else any."""
    found, text = [], OF_OTHERS.sub("", fix)
    for match in re.finditer(r"--[a-z][a-z0-9-]*", text):
        named = re.findall(r"lcprune ([a-z]+)[^`;,]*$", text[: match.start()])
        known = COMMANDS.get(named[-1] if named else command or "", set().union(*COMMANDS.values()))
        if match.group() not in known:
            found.append(match.group())
    return found
