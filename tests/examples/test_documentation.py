"""What README.md and docs/ say is true: commands parse, recipes load, Python runs, and tables are complete."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from PIL import Image

from lcprune import recipe as recipes
from lcprune.cli import app
from lcprune.data.sources import read_digits
from lcprune.export.metadata import ModelInfo

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TEXTS = {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
