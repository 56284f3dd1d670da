"""A recipe as YAML for a person: every choice with its reason in a comment above it."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence

Value = str | int | float | bool | Sequence[int]

_WIDTH = 110
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_NO_TEXT = ("true", "false", "null")  # what YAML 1.2 reads as something else


def recipe_text(
    heading: Sequence[str],
    name: str,
    sections: Mapping[str, Mapping[str, Value | None]],
    reasons: Mapping[str, str],
) -> str:
    """The YAML of a recipe.

    Args:
        heading: Paragraphs of the comment above everything; the first is what `description` gives back.
        name: Of the recipe.
        sections: Keys of every section, in the order in which they are written; None: left out.
        reasons: By ``section.key``: the comment above it.
    """
    lines = [*_comment(heading[0], "")]
    for paragraph in heading[1:]:
        lines += ["#", *_comment(paragraph, "")]
    lines.append(f"name: {scalar(name)}")
    for section, values in sections.items():
        lines.append(f"{section}:")
        for key, value in values.items():
            if value is not None:
                lines += [*_comment(reasons.get(f"{section}.{key}", ""), "  "), f"  {key}: {scalar(value)}"]
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
