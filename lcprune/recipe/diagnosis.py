"""From a validation error to a message: the key, the line or the override that is wrong, and how to fix it."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lcprune.errors import RecipeError
from lcprune.recipe.schema.recipe import known_keys, sections

LONGEST_SHOWN = 200
"""Characters of a wrong value in a message."""


def explain(error: ValidationError, document: Any, origin: str, overrides: Sequence[str]) -> RecipeError:
    """The message for a validation error.

    Args:
        error: As pydantic reports it.
        document: The YAML document with the lines of its keys.
        origin: Names the document.
        overrides: ``KEY=VALUE`` each, which came after it.
    """
    errors = error.errors()
    first = errors[0]
    key = ".".join(_key(first))
    same_key = [one for one in errors if _key(one) == _key(first)]
    if isinstance(first["input"], list):
        first = same_key[-1]  # of "a number" or "a list of numbers", the one about the list
    others = len(errors) - len(same_key)
    where = _where(first["loc"], document, origin, overrides)
    if first["type"] == "extra_forbidden":
        return RecipeError(f"{where}: unknown key {key}", _known_instead(key))
    if first["type"] == "missing":
        section, _, name = key.rpartition(".")
        return RecipeError(
            f"{where}: {key} is missing", f"add {name}: ... " + (f"under {section}:" if section else "to it")
        )
    problem, fix = _wording(first, key)
    subject = f"{where}: {key}" if key else where  # an error of two sections together has no key
    return RecipeError(f"{subject}: {problem}" + (f" ({others} more after this one)" if others else ""), fix)


def _key(error: ErrorDetails) -> tuple[str, ...]:
    """Section and key of an error, without the place in a list and without pydantic's names of types."""
    return tuple(str(part) for part in error["loc"][:2] if isinstance(part, str))


def _wording(error: ErrorDetails, key: str) -> tuple[str, str]:
    """What is wrong with the value of a key, and how to fix it."""
    if error["type"] == "value_error":  # from a validator of the schema, as "what is wrong: what to do"
        problem, _, fix = error["msg"].removeprefix("Value error, ").partition(": ")
        return problem, fix or f"lcprune schema describes {key}"
    given = json.dumps(error["input"], default=str)
    given = f"(given: {given if len(given) <= LONGEST_SHOWN else given[:LONGEST_SHOWN] + ' ...'})"
    if error["type"] == "model_type":
        return f"this is a section, with keys of its own {given}", f"known keys: {', '.join(sections()[key])}"
    if error["type"] == "tuple_type":
        return f"Input should be a list {given}", "write it in brackets, such as [2, 5, 8]"
    if error["type"] == "string_pattern_mismatch":
        return f"not a name for a folder {given}", "use letters, digits, '.', '_' and '-', 64 at most"
    near = []
    if error["type"] == "literal_error":
        near = difflib.get_close_matches(str(error["input"]), error["ctx"]["expected"].replace("'", " ").split(), n=1)
    return f"{error['msg']} {given}", f"did you mean {near[0]}?" if near else f"lcprune schema describes {key}"


def _known_instead(key: str) -> str:
    """What to write instead of an unknown key: the nearest known one, else all of its section."""
    section, _, name = key.rpartition(".")
    known = sections()
    neighbours = known.get(section, []) if section else list(known)
    prefix = f"{section}." if section else ""
    if near := difflib.get_close_matches(name, neighbours, n=1):
        return f"did you mean {prefix}{near[0]}?"
    everywhere = {each.rpartition(".")[2]: each for each in known_keys()}
    if near := difflib.get_close_matches(name, everywhere, n=1):
        return f"did you mean {everywhere[near[0]]}?"
    return f"known keys: {', '.join(prefix + each for each in neighbours)}"


def _where(path: Sequence[str | int], document: Any, origin: str, overrides: Sequence[str]) -> str:
    """``FILE, line N`` of the deepest part of `path` that the document has, or the override that is wrong."""
    line = None
    held = 0
    node = document
    for part in path:
        is_section = isinstance(node, Mapping)
        try:
            line = node.lc.key(part)[0] if is_section else node.lc.item(part)[0]
            node = node[part]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
        held += 1
    for override in reversed(overrides):
        key = tuple(override.partition("=")[0].strip().split("."))
        inside_it = path[: len(key)] == key
        made_by_it = held < len(path) and key[: len(path)] == tuple(path)
        if inside_it or made_by_it:
            return f"--set {override}"
    return origin if line is None else f"{origin}, line {line + 1}"
