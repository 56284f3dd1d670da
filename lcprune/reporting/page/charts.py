"""Charts as inline SVG. Colours are classes of the page's style sheet, so that they follow its dark mode."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lcprune.reporting.page.markup import fixed, text

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 12, 44
EXIT_COLOURS = 6
"""Colours of early exits in the style sheet; more exits begin again."""


@dataclass(frozen=True)
class Scale:
    """From values to user units."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True)
class Axes:
    """The two scales of a chart, their ticks and titles."""

    x: Scale
    y: Scale
    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]
    x_title: str
    y_title: str


@dataclass(frozen=True)
class Series:
    """A line, and what it is called in the legend."""

    name: str
    colour: str
    """A class of the style sheet."""
    points: tuple[tuple[float, float], ...]
    marked: bool = False
    """Whether every point has a dot."""


def exit_colour(exit_index: int, n_exits: int) -> str:
    """The class of an exit's colour; main has one of its own."""
    return "main" if exit_index == n_exits - 1 else f"exit-{exit_index % EXIT_COLOURS}"


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    span = high - low
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(round(number * step, 10) for number in range(first, last + 1))


def axes(xs: Sequence[float], ys: Sequence[float], x_title: str, y_title: str, *, x_zero: bool = False) -> Axes:
    """Axes that hold all of the values, with some air above and below.

    Args:
        xs: Values to be shown.
        ys: Likewise.
        x_title: What they are, with the unit.
        y_title: Likewise.
        x_zero: Whether the x axis begins at 0.
    """
    x_low, x_high = (0.0 if x_zero else min(xs)), max(xs)
    y_low, y_high = min(ys), max(ys)
    air = 0.05 * (y_high - y_low) or 0.5
    x_air = 0.04 * (x_high - x_low) or 0.5
    x = Scale(x_low if x_zero else x_low - x_air, x_high + x_air, LEFT, WIDTH - RIGHT)
    y = Scale(y_low - air, y_high + air, HEIGHT - BOTTOM, TOP)
    return Axes(x, y, ticks(x.low, x.high), ticks(y.low, y.high), x_title, y_title)


def frame(drawn_axes: Axes) -> str:
    """Grid, ticks and titles."""
    x, y = drawn_axes.x, drawn_axes.y
    parts = []
    for tick in drawn_axes.y_ticks:
        at = fixed(y(tick), 1)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at}" dy="0.35em" text-anchor="end">{_number(tick)}</text>')
    for tick in drawn_axes.x_ticks:
        at = fixed(x(tick), 1)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        below = HEIGHT - BOTTOM + 16
        parts.append(f'<text class="tick" x="{at}" y="{below}" text-anchor="middle">{_number(tick)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{text(drawn_axes.x_title)}</text>'
    )
    centre = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="axis" transform="translate(12 {centre}) rotate(-90)" text-anchor="middle">'
        f"{text(drawn_axes.y_title)}</text>"
    )
    return "".join(parts)


def line(drawn_axes: Axes, series: Series) -> str:
    """A line through points, in their order."""
    places = [(fixed(drawn_axes.x(x), 1), fixed(drawn_axes.y(y), 1)) for x, y in series.points]
    path = " ".join(f"{x},{y}" for x, y in places)
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="2.6"/>' for x, y in places) if series.marked else ""
    return f'<g class="{series.colour}"><polyline points="{path}"/>{dots}</g>'


def mark(drawn_axes: Axes, at: tuple[float, float], shape: str, colour: str, label: str, title: str) -> str:
    """A point with a label beside it and a title for the pointer.

    Args:
        drawn_axes: Of the chart.
        at: x and y.
        shape: ``dot``, ``square`` or ``ring``.
        colour: A class of the style sheet.
        label: Short; may be empty.
        title: What the point is, in full.
    """
    x, y = drawn_axes.x(at[0]), drawn_axes.y(at[1])
    if shape == "square":
        drawn = f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    else:
        drawn = f'<circle class="{shape}" cx="{x:.1f}" cy="{y:.1f}" r="{8 if shape == "ring" else 4.5}"/>'
    near_right = x > WIDTH - 110
    place = f'x="{x - 8:.1f}" text-anchor="end"' if near_right else f'x="{x + 8:.1f}"'
    words = f'<text class="label" {place} y="{y + 14:.1f}">{text(label)}</text>' if label else ""
    return f'<g class="{colour}"><title>{text(title)}</title>{drawn}{words}</g>'


def chart(drawn_axes: Axes, marks: str, label: str, attributes: str = "") -> str:
    """An SVG element.

    Args:
        drawn_axes: Of the chart.
        marks: What is drawn, as SVG.
        label: What is seen, for those who cannot see it.
        attributes: More attributes of the element.
    """
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(label)}"{attributes}>'
        f"{frame(drawn_axes)}{marks}</svg>"
    )


def line_chart(series: Sequence[Series], x_title: str, y_title: str, label: str) -> str:
    """Lines over one x axis that begins at 0, with a legend below."""
    points = [point for one in series for point in one.points]
    drawn = axes([x for x, _ in points], [y for _, y in points], x_title, y_title, x_zero=True)
    return chart(drawn, "".join(line(drawn, one) for one in series), label) + legend(
        [(one.name, one.colour) for one in series]
    )


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Names and the classes of their colours."""
    keys = "".join(f'<li><span class="key {colour}"></span>{text(name)}</li>' for name, colour in entries)
    return f'<ul class="legend">{keys}</ul>'


def _number(value: float) -> str:
    """A tick: 12k for 12,000."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
