"""Any recipe that is taken survives being written down, and any text gets one message."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lcprune import recipe as recipes
from lcprune.cli import app
from lcprune.errors import RecipeError

SHIPPED = recipes.shipped()
SCHEMA = recipes.json_schema()
KEYS = sorted(
    (section, key)
    for section, content in SCHEMA["properties"].items()
    if "$ref" in content
    for key in SCHEMA["$defs"][content["$ref"].rpartition("/")[2]]["properties"]
)
NUMBERS = st.one_of(
    st.integers(-2, 12), st.integers(), st.floats(0, 1), st.floats(allow_nan=True), st.sampled_from([0.05, 1e-5, 1e30])
)
ANYTHING = st.recursive(
    st.one_of(NUMBERS, st.booleans(), st.none(), st.text(max_size=8), st.sampled_from(["none", "auto", "0x1F", "1e3"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=2)),
    max_leaves=6,
)


def described(section: str, key: str) -> dict[str, Any]:
    name = SCHEMA["properties"][section]["$ref"].rpartition("/")[2]
    found: dict[str, Any] = SCHEMA["$defs"][name]["properties"][key]
    return found


def fitting(about: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of the type that the schema gives a key; whether they are taken is for the recipe to say."""
    if "anyOf" in about:
        return st.one_of([fitting(each) for each in about["anyOf"]])
    if "enum" in about:
        return st.sampled_from(about["enum"])
    if "const" in about:
        return st.just(about["const"])
    if about.get("type") == "array":
        return st.lists(fitting(about.get("items", {"type": "number"})), max_size=4)
    kinds = {
        "integer": st.integers(0, 40),
        "number": st.one_of(st.floats(0, 2), st.integers(0, 100)),
        "boolean": st.booleans(),
        "null": st.none(),
        "string": st.text(max_size=12),
    }
    return kinds.get(str(about.get("type")), ANYTHING)


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    """One to three keys with a value of their type, as ``--set`` gives them (JSON is YAML)."""
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True))
    return [f"{section}.{key}={json.dumps(draw(fitting(described(section, key))))}" for section, key in keys]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A shipped recipe with something cut out, put in, doubled or exchanged, a few times over."""
    text = SHIPPED[draw(st.sampled_from(sorted(SHIPPED)))]
    scraps = ["&a ", "*a", "<<: *a", "!!set", "[", "]", "{", "}", ": ", "- ", "? ", "|", ">", "'", '"', "#", "%", "\t"]
    scraps += [
        "\n",
        "\0",
        "\u2028",
        "\ud800",
        "---\n",
        "...\n",
        "~",
        ".nan",
        "-.inf",
        "0o7",
        "1_000",
        "9" * 400,
        "2020-01-01",
    ]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 30)))
        put_in = draw(st.one_of(st.sampled_from(scraps), st.text(max_size=6), st.just(text[start:end] * 2)))
        text = text[:start] + put_in + text[end:]
    return text


def check_message(error: RecipeError) -> None:
    assert error.problem
    assert error.fix
    assert len(error.problem) < 1500


@given(st.sampled_from(sorted(SHIPPED)), overrides())
def test_what_is_taken_comes_back_as_it_was(name: str, changes: list[str]) -> None:
    try:
        taken = recipes.load(name, changes)
    except RecipeError as error:
        check_message(error)
        assume(False)
    text = recipes.dump(taken)
    again = recipes.parse(text)
    assert again == taken
    assert recipes.dump(again) == text


@given(st.sampled_from(KEYS), ANYTHING, st.booleans())
def test_any_value_of_any_key_is_taken_or_refused(key: tuple[str, str], value: Any, in_the_file: bool) -> None:
    section, name = key
    try:
        if in_the_file:
            recipes.parse(json.dumps({"name": "x", "data": {"source": "digits"}, section: {name: value}}))
        else:
            recipes.load("digits", [f"{section}.{name}={value}"])
    except RecipeError as error:
        check_message(error)


@given(st.text(max_size=60))
def test_any_override_is_taken_or_refused(text: str) -> None:
    try:
        recipes.load("digits", [text])
    except RecipeError as error:
        check_message(error)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated") / "mine.yaml"


@given(text=mutated())
def test_a_mutated_recipe_gets_one_message_and_no_traceback(file: Path, text: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    done = CliRunner().invoke(app, ["validate", str(file), "--json"], catch_exceptions=False)
    assert done.exit_code in (0, 1, 2)
    assert "Traceback" not in done.stderr
    content = json.loads(done.stdout)  # one message, and nothing else
    if done.exit_code:
        assert set(content["error"]) == {"kind", "problem", "fix"}
