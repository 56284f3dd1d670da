"""The command line: every command parses, delegates and prints. Heavy modules are imported inside the commands."""

from lcprune.cli.commands import app, main

__all__ = ["app", "main"]
