"""HTML from values: everything that is not our own text goes through `text`."""

import html
import json
import math
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

NOT_KNOWN = "–"
SUBSTITUTES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def text(value: object) -> str:
    """A value as text in HTML, also within quoted attributes."""
    return html.escape(str(value), quote=True)


def json_block(identifier: str, content: Any) -> str:
    """Data for the page's script; nothing in it can end the element."""
    body = json.dumps(content, separators=(",", ":"), allow_nan=False).translate(SUBSTITUTES)
    return f'<script type="application/json" id="{text(identifier)}">{body}</script>'


def fixed(value: float | None, digits: int) -> str:
    """A number with so many digits after the point, rounded as JavaScript's ``toFixed`` does: a half goes up.

    What is not a number is shown as a dash.
    """
    if value is None or not math.isfinite(value):
        return NOT_KNOWN
    return f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"


def percent(value: float | None) -> str:
    """Percent from percent: ``86.78 %``."""
    return f"{fixed(value, 2)} %"


def share(fraction: float | None) -> str:
    """Percent from a fraction: ``33.62 %``."""
    return percent(None if fraction is None else 100 * fraction)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str, identifier: str = "") -> str:
    """A table that scrolls by itself where it is too wide; its cells are HTML, the first of a row is its heading."""
    heads = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
        for first, *others in rows
    )
    mark = f' id="{text(identifier)}"' if identifier else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{text(caption)}"><table{mark}>'
        f"<caption><span>{text(caption)}</span></caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(summary: str, body: str) -> str:
    """What unfolds on demand."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def section(identifier: str, title: str, *parts: str) -> str:
    """A section of the page."""
    name = text(identifier)
    heading = f'<h2 id="{name}-title">{text(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{heading}{"".join(parts)}</section>'


def paragraph(words: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{text(words)}</p>"


def figure(picture: str, caption: str) -> str:
    """A picture, which is HTML, and the words below it."""
    return f"<figure>{picture}<figcaption>{text(caption)}</figcaption></figure>"
