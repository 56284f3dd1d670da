"""Writes the tables of docs/recipes.md out of the recipe's schema: ``python docs/keys.py``."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcprune import recipe

PAGE = Path(__file__).with_name("recipes.md")
HEADER = "| key | values | default | meaning |\n|---|---|---|---|\n"
LIMITS = {
    "minimum": "{} or more",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
KINDS = {"integer": "whole number", "number": "number", "string": "text"}


def main() -> None:
    """Puts the tables into the page."""
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(page: str) -> str:
    """The page with the table of every section made anew."""
    schema = recipe.json_schema()
    for section, reference in schema["properties"].items():
        config = schema["$defs"].get(reference.get("$ref", "").rpartition("/")[2])
        if config is None:
            continue
        required = set(config.get("required", ()))
        rows = [_row(key, value, key in required) for key, value in config["properties"].items()]
        before, mark, rest = page.partition(f"\n## `{section}`\n")
        text, _, after = rest.partition(HEADER)
        after = re.sub(r"\A(\| .*\n)*", "", after)
        page = before + mark + text + HEADER + "".join(rows) + after
    return page


def _row(key: str, schema: Mapping[str, Any], required: bool) -> str:
    default = "required" if required else _default(schema.get("default"))
    meaning = " ".join(schema.get("description", "").split()).replace("``", "`").replace("|", "\\|")
    return f"| `{key}` | {_values(schema)} | {default} | {meaning} |\n"


def _default(value: object) -> str:
    if value is None:
        return "left out"
    text = json.dumps(value) if isinstance(value, bool | list) else f"{value}"
    return f"`{text}`"


def _values(schema: Mapping[str, Any]) -> str:
    """What a key may hold, in words."""
    if "anyOf" in schema:
        first, *others = [_values(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join([first, *(other.replace(_several(first), "them") for other in others)])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "boolean":
        return "`true`, `false`"
    if schema.get("type") == "array":
        return f"list of {_several(_values(schema.get('items', {})))}"
    if schema.get("format") == "path":
        return "path"
    limits = [text.format(_number(schema[name])) for name, text in LIMITS.items() if name in schema]
    return " ".join([KINDS.get(schema.get("type", ""), "value"), ", ".join(limits)]).strip()


def _several(values: str) -> str:
    return re.sub(r"\b(number|text)\b", r"\1s", values)


def _number(value: float) -> str:
    return f"{value:,}" if value == int(value) else f"{value:g}"


if __name__ == "__main__":
    main()
