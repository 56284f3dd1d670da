"""A recipe with comments: YAML that says what was chosen, whatever stands in the names."""

from typing import Any

import pytest
from ruamel.yaml import YAML

from lcprune import recipe as recipes
from lcprune.reporting.recipe_text import recipe_text, scalar


def test_a_text_by_hand() -> None:
    sections: dict[str, Any] = {"data": {"root": "photos", "pad": None, "val_size": 3}, "logging": {}}
    reasons = {"data.root": "Where they are.", "data.pad": "Left out."}
    assert recipe_text(["What it is.", "And more."], "mine", sections, reasons) == (
        "# What it is.\n#\n# And more.\nname: mine\n"
        "data:\n  # Where they are.\n  root: photos\n  val_size: 3\nlogging:\n"
    )


def test_the_first_line_is_the_description() -> None:
    assert recipes.description(recipe_text(["What it is.", "More."], "mine", {}, {})) == "What it is."


def test_comments_are_wrapped() -> None:
    text = recipe_text(["x"], "mine", {"data": {"a": 1}}, {"data.a": "word " * 60})
    lines = text.splitlines()[3:-1]
    assert len(lines) == 3
    assert all(line.startswith("  # word") and len(line) <= 110 for line in lines)


@pytest.mark.parametrize(
    "value",
    [
        "photos",
        "true",
        "no",
        "2024",
        "a: b",
        "'quoted' \"twice\"",
        "back\\slash",
        "Größe",
        "two\nlines",
        "\x07bell",
        "~",
        "",
        1,
        5e-5,
        True,
        [4, 2, 1],
    ],
)
def test_a_value_is_read_as_it_was(value: Any) -> None:
    read = YAML(typ="safe").load(f"key: {scalar(value)}\n")["key"]
    assert read == value
    assert type(read) is type(value)


def test_a_comment_that_holds_what_yaml_forbids() -> None:
    text = recipe_text(["\x07 bell\x85 and \udcff"], "mine", {"data": {"a": 1}}, {"data.a": "tab\tand\nline"})
    text.encode("utf-8")
    assert YAML(typ="safe").load(text) == {"name": "mine", "data": {"a": 1}}
