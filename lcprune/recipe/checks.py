"""What the keys of a recipe must have in common, checked also where some of its values are wrong."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter

from lcprune.recipe.schema.recipe import Recipe

Key = tuple[str, ...]
"""Section and key, or a key of the top level; empty for what is wrong with two sections together."""
_DECIDE_PLACES = frozenset({("model",), *(("model", key) for key in ("trunk", "cuts", "groups", "layers"))})
"""What ``critics.after`` depends on where it is left out."""


def failed_checks(values: Mapping[str, Any], wrong: Collection[Key]) -> Iterator[tuple[Key, str]]:
    """Every check of several keys that fails, its section (empty for a check of several) and its message.

    A check that reads one of the wrong values is passed over: what it would find is not known.

    Args:
        values: Of a recipe.
        wrong: What is not valid by itself, or missing.
    """
    filled = _prepared(Recipe, values)
    unknown = {*wrong}
    if values.get("critics") != filled.get("critics") and not _DECIDE_PLACES.isdisjoint(wrong):
        unknown.add(("critics", "after"))
    parts: dict[str, BaseModel] = {}
    for name, field in Recipe.model_fields.items():
        section, content = field.annotation, filled.get(name, {})
        if isinstance(section, type) and issubclass(section, BaseModel) and (name,) not in wrong:
            keys = {key[1] for key in unknown if len(key) == 2 and key[0] == name}
            parts[name] = _known_part(section, _prepared(section, content), keys)
            yield from (((name,), message) for message in _failed(parts[name]))
    whole = Recipe.model_construct(set(parts), **parts)
    for key in wrong:
        if len(key) == 1:
            whole.__dict__.pop(key[0], None)
    yield from (((), message) for message in _failed(whole))


def _prepared(model: type[BaseModel], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values with what the model fills in before it looks at them."""
    for name in _checks(model, "before"):
        values = getattr(model, name)(values)
    return values


def _known_part(model: type[BaseModel], values: Mapping[str, Any], unknown: Collection[str]) -> BaseModel:
    """A section without its wrong values: to read one of those is an AttributeError."""
    fields = {name: field for name, field in model.model_fields.items() if name in values and name not in unknown}
    right = {
        name: TypeAdapter(field.rebuild_annotation()).validate_python(values[name]) for name, field in fields.items()
    }
    part = model.model_construct(**right)
    for name in unknown:
        part.__dict__.pop(name, None)
    return part


def _failed(part: BaseModel) -> Iterator[str]:
    for name in _checks(type(part), "after"):
        try:
            getattr(part, name)()
        except AttributeError:
            continue
        except ValueError as error:
            yield str(error)


def _checks(model: type[BaseModel], mode: str) -> list[str]:
    validators = model.__pydantic_decorators__.model_validators
    return [name for name, validator in validators.items() if validator.info.mode == mode]
