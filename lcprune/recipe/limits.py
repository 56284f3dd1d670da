"""What a YAML text may ask for. A recipe has some hundred nodes; a text made to fill memory has billions."""

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
"""Of a text."""
MAX_VALUE = 2000
"""Characters of a name or value."""
MAX_NODES = 2000
"""Keys, values, lists and sections, an alias counted as everything that it stands for."""
MAX_DEPTH = 16

_FIX = "leave out what is no recipe"


class _Count:
    """Nodes so far, those of each anchor, and what is open."""

    def __init__(self) -> None:
        self.nodes = 0
        self.of_anchor: dict[str, int | None] = {}
        """None: not closed yet."""
        self.open: list[tuple[str | None, int]] = []

    def add(self, event: Event) -> str | None:
        """What is wrong at this event, or None."""
        if isinstance(event, MappingEndEvent | SequenceEndEvent):
            self._close(*self.open.pop())
            return None
        if not isinstance(event, NodeEvent):
            return None
        if isinstance(event, AliasEvent):
            return self._add_alias(str(event.anchor))
        tag = getattr(event, "tag", None)
        if tag is not None:
            return f"it has the tag {str(tag)[:40]}, and a recipe needs none"
        if isinstance(event, ScalarEvent) and len(event.value) > MAX_VALUE:
            return f"it has a value of more than {MAX_VALUE:,} characters"
        return self._add_node(event)

    def _add_node(self, event: NodeEvent) -> str | None:
        self.nodes += 1
        anchor = None if event.anchor is None else str(event.anchor)
        if anchor in self.of_anchor:
            return f"the anchor {anchor[:40]} is there twice"
        if anchor is not None:
            self.of_anchor[anchor] = None
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            self.open.append((anchor, self.nodes - 1))
        else:
            self._close(anchor, self.nodes - 1)
        return self._excess()

    def _add_alias(self, anchor: str) -> str | None:
        size = self.of_anchor.get(anchor, 1)  # the reader refuses an anchor that is not there
        if size is None:
            return f"the anchor {anchor[:40]} holds itself"
        self.nodes += size
        return self._excess()

    def _close(self, anchor: str | None, before: int) -> None:
        if anchor is not None:
            self.of_anchor[anchor] = self.nodes - before

    def _excess(self) -> str | None:
        if len(self.open) > MAX_DEPTH:
            return f"it is nested more than {MAX_DEPTH} deep"
        if self.nodes > MAX_NODES:
            return f"it has more than {MAX_NODES:,} nodes"
        return None


def check(yaml: YAML, text: str, origin: str) -> None:
    """Reads through a text without building anything of it.

    Raises:
        RecipeError: If it is too long, too deep or too much, or has tags.
        MarkedYAMLError: If it is no YAML.
    """
    if len(text) > MAX_CHARACTERS:
        raise RecipeError(f"{origin} is no recipe: it has more than {MAX_CHARACTERS:,} characters", _FIX)
    if text.count("[") + text.count("{") > MAX_NODES:  # the reader takes time with the square of those
        raise RecipeError(f"{origin} is no recipe: it has more than {MAX_NODES:,} brackets", _FIX)
    count = _Count()
    for event in yaml.parse(text):
        problem = count.add(event)
        if problem is not None:
            mark = event.start_mark
            raise RecipeError(f"{origin}, line {mark.line + 1}: {problem}", _FIX)
