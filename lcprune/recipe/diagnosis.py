"""From a validation error to a message: the key, the line or the override that is wrong, and how to fix it."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lcprune.errors import RecipeError
from lcprune.recipe.checks import Key, failed_checks
from lcprune.recipe.schema.recipe import Recipe, known_keys, sections

MOST_TOLD = 20
"""Mistakes in a message."""
LONGEST_SHOWN = 200
"""Characters of a wrong value in a message."""


@dataclass(frozen=True)
class _Mistake:
    where: str
    problem: str
    fix: str


def explain(
    error: ValidationError, values: Mapping[str, Any], document: Any, origin: str, overrides: Sequence[str]
) -> RecipeError:
    """The message for a validation error: every mistake, also those behind a misspelt key or a wrong value.

    Args:
        error: As pydantic reports it.
        values: What it is about.
        document: The YAML document with the lines of its keys.
        origin: Names the document.
        overrides: ``KEY=VALUE`` each, which came after it.
    """
    right, written = _corrected(values, error.errors())
    told = _by_key(error.errors())
    found = [(key, group) for key, group in told.items() if not _is_misspelt(group[0], right)]
    wrong = {key for key, _ in found}
    if written:
        try:
            Recipe.model_validate(right)
        except ValidationError as behind:
            more = {key: group for key, group in _by_key(behind.errors()).items() if key not in told}
            found += [(_as_written(key, written), group) for key, group in more.items()]
            wrong |= {*more}
    for key, message in failed_checks(right, wrong):
        found.append((_as_written(key, written), [_of_check(key, message)]))
    mistakes = [_mistake(key, group, written, document, origin, overrides) for key, group in found]
    if len(mistakes) == 1:
        return RecipeError(f"{mistakes[0].where}: {mistakes[0].problem}", mistakes[0].fix)
    lines = [f"  {each.where.removeprefix(f'{origin}, ')}: {each.problem}; {each.fix}" for each in mistakes[:MOST_TOLD]]
    if len(mistakes) > MOST_TOLD:
        lines.append(f"  and {len(mistakes) - MOST_TOLD} more")
    return RecipeError(
        f"{origin} has {len(mistakes)} mistakes:\n" + "\n".join(lines),
        "correct them; lcprune schema describes every key",
    )


def _mistake(
    key: Key,
    group: Sequence[ErrorDetails],
    written: Mapping[Key, str],
    document: Any,
    origin: str,
    overrides: Sequence[str],
) -> _Mistake:
    """What is wrong with one key; `group` has pydantic's errors about it."""
    # Of "a number" or "a list of numbers", the one about the list.
    first = group[-1] if isinstance(group[0]["input"], list) else group[0]
    name = ".".join(key)
    where = _where(_as_written(first["loc"], written), document, origin, overrides)
    if first["type"] == "extra_forbidden":
        return _Mistake(where, f"unknown key {name}", _known_instead(name))
    if first["type"] == "missing":
        section, _, missing = name.rpartition(".")
        return _Mistake(
            where, f"{name} is missing", f"add {missing}: ... " + (f"under {section}:" if section else "to it")
        )
    problem, fix = _wording(first, ".".join(_key(first)))
    return _Mistake(where, f"{name}: {problem}" if name else problem, fix)  # one of two sections together has no key


def _by_key(errors: Sequence[ErrorDetails]) -> dict[Key, list[ErrorDetails]]:
    """The errors about each value by itself; `failed_checks` gives those about several."""
    groups: dict[Key, list[ErrorDetails]] = {}
    for each in errors:
        if each["type"] != "value_error" or not isinstance(each["input"], dict):
            groups.setdefault(_key(each), []).append(each)
    return groups


def _of_check(key: Key, message: str) -> ErrorDetails:
    return ErrorDetails(type="value_error", loc=key, msg=message, input=None)


def _corrected(values: Mapping[str, Any], errors: Sequence[ErrorDetails]) -> tuple[dict[str, Any], dict[Key, str]]:
    """The values with misspelt keys replaced, and how each of those, by its right path, is written."""
    right: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    written: dict[Key, str] = {}
    for each in errors:
        *section, name = _key(each) or ("",)
        inside = right.get(section[0]) if section else right
        if each["type"] != "extra_forbidden" or not isinstance(inside, dict):
            continue
        near = difflib.get_close_matches(name, sections().get(section[0], []) if section else list(sections()), n=1)
        if near and near[0] not in inside:
            inside[near[0]] = inside.pop(name)
            written[(*section, near[0])] = name
    return right, written


def _as_written(path: Sequence[Any], written: Mapping[Key, str]) -> tuple[Any, ...]:
    """A path of right keys as it stands in the document."""
    return tuple(written.get(tuple(path[: depth + 1]), part) for depth, part in enumerate(path))


def _is_misspelt(error: ErrorDetails, right: Mapping[str, Any]) -> bool:
    """Whether something is missing only because its key is misspelt."""
    node: Any = right
    for part in error["loc"]:
        node = node.get(part) if isinstance(node, Mapping) else None
    return error["type"] == "missing" and node is not None


def _key(error: ErrorDetails) -> Key:
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
        one = error["input"]
        return f"Input should be a list {given}", "write it in brackets" + (
            f", such as {key.rpartition('.')[2]}: [{one}]" if isinstance(one, int | float | str) else ""
        )
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
