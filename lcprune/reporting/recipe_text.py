"""A recipe as YAML for a person: every choice with its reason in a comment above it."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Value = str | int | float | bool | Sequence[int]

_WIDTH = 110
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_NO_TEXT = ("true", "false", "null")  # what YAML 1.2 reads as something else


@dataclass(frozen=True)
class Choice:
    """One key of a section."""

    key: str
    value: Value
    why: str = ""
    """Written above it; empty for what speaks for itself."""


def recipe_text(heading: Sequence[str], name: str, sections: Mapping[str, Sequence[Choice]]) -> str:
    """The YAML of a recipe.

    Args:
        heading: Paragraphs of the comment above everything; the first is what `description` gives back.
        name: Of the recipe.
        sections: Choices of every section, in the order in which they are written.
    """
    lines = [*_comment(heading[0], "")]
    for paragraph in heading[1:]:
        lines += ["#", *_comment(paragraph, "")]
    lines.append(f"name: {scalar(name)}")
    for section, choices in sections.items():
        lines.append(f"{section}:")
        for choice in choices:
            lines += _comment(choice.why, "  ")
            lines.append(f"  {choice.key}: {scalar(choice.value)}")
    return "\n".join(lines) + "\n"


def scalar(value: Value) -> str:
    """A value as YAML, on one line."""
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) is not None and value.lower() not in _NO_TEXT
        return value if plain else json.dumps(value, ensure_ascii=not value.isprintable())
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value if isinstance(value, bool | int) else list(value))


def _comment(text: str, indent: str) -> list[str]:
    text = "".join(letter if letter.isprintable() else " " for letter in text)  # names may hold what YAML forbids
    return [f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent) - 2, break_on_hyphens=False)]
