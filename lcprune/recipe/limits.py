"""Limits of a YAML text. A recipe has some hundred nodes; a text made to fill memory has billions."""

from collections.abc import Iterable, Iterator

from ruamel.yaml import YAML
from ruamel.yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from lcprune.errors import RecipeError

MAX_CHARACTERS = 32 * 1024
"""The longest text."""
MAX_VALUE = 2000
"""The longest name or value, in characters."""
MAX_NODES = 2000
"""The most keys, values, lists and sections; an alias counts as all nodes that it stands for."""
MAX_DEPTH = 16
"""The deepest nesting."""

_FIX = "leave out what is no recipe"


def check(yaml: YAML, text: str, origin: str) -> None:
    """Parses a text without building anything of it.

    Raises:
        RecipeError: If it is too long, too deep or has too many nodes, or has tags.
        MarkedYAMLError: If it is no YAML.
    """
    if len(text) > MAX_CHARACTERS:
        raise RecipeError(f"{origin} is no recipe: it has more than {MAX_CHARACTERS:,} characters", _FIX)
    if text.count("[") + text.count("{") > MAX_NODES:  # the parser takes time with the square of those
        raise RecipeError(f"{origin} is no recipe: it has more than {MAX_NODES:,} brackets", _FIX)
    for event, problem in _problems(yaml.parse(text)):
        raise RecipeError(f"{origin}, line {event.start_mark.line + 1}: {problem}", _FIX)


def _problems(events: Iterable[Event]) -> Iterator[tuple[Event, str]]:
    """Each event that breaks a limit, and how."""
    nodes = 0
    nodes_of: dict[str | None, int] = {}  # of each anchor; 0 until its node is closed
    opened: list[tuple[str | None, int]] = []  # anchor of each open list or section, and the nodes before it
    for event in events:
        if isinstance(event, MappingEndEvent | SequenceEndEvent):
            anchor, before = opened.pop()
            nodes_of[anchor] = nodes - before
        if not isinstance(event, NodeEvent):
            continue
        anchor = None if event.anchor is None else str(event.anchor)
        if isinstance(event, AliasEvent):
            nodes += nodes_of.get(anchor, 1)  # the parser refuses an alias without an anchor
            if not nodes_of.get(anchor, 1):
                yield event, f"the anchor {str(anchor)[:40]} contains itself"
        else:
            if (tag := getattr(event, "tag", None)) is not None:
                yield event, f"it has the tag {str(tag)[:40]}, and a recipe needs none"
            if isinstance(event, ScalarEvent) and len(event.value) > MAX_VALUE:
                yield event, f"it has a value of more than {MAX_VALUE:,} characters"
            if anchor is not None and anchor in nodes_of:
                yield event, f"it has the anchor {anchor[:40]} twice"
            is_open = isinstance(event, MappingStartEvent | SequenceStartEvent)
            nodes_of[anchor] = 0 if is_open else 1
            if is_open:
                opened.append((anchor, nodes))
            nodes += 1
        if len(opened) > MAX_DEPTH:
            yield event, f"it is nested more than {MAX_DEPTH} deep"
        if nodes > MAX_NODES:
            yield event, f"it has more than {MAX_NODES:,} nodes"
