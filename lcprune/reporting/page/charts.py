"""Charts as values: lines and marks on two axes, which the page's template draws as inline SVG.

Colours are classes of the style sheet, so that they follow its dark mode.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 408, 12, 256
"""Edges of the plot within the chart."""
EXIT_COLOURS = 6
"""Colours of early exits in the style sheet; more exits begin again."""


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to user units of the SVG."""

    title: str
    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def __str__(self) -> str:
        """As the page's script reads it."""
        return f"{self.low} {self.high} {self.start} {self.end}"


@dataclass(frozen=True)
class Line:
    """A line through points, in their order."""

    name: str
    colour: str
    points: tuple[Point, ...]
    dots: bool = False
    """Whether every point has a dot."""


@dataclass(frozen=True)
class Mark:
    """A single point."""

    title: str
    """What the point is, in full: a tooltip."""
    colour: str
    at: Point
    shape: str = "dot"
    """``dot``, ``square`` or ``ring``."""
    label: str = ""
    """Short, beside the mark."""


@dataclass(frozen=True)
class Chart:
    """Lines, and marks on top of them."""

    label: str
    """The text alternative for screen readers."""
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...] = ()

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Names and colours of the lines."""
        return [(line.name, line.colour) for line in self.lines]


def chart(label: str, x_title: str, y_title: str, lines: Sequence[Line], marks: Sequence[Mark] = ()) -> Chart:
    """A chart whose axes hold all points with a margin; the x axis begins at 0."""
    points = [*(point for line in lines for point in line.points), *(mark.at for mark in marks)]
    xs, ys = zip(*points, strict=True)
    margin = 0.05 * (max(ys) - min(ys)) or 0.5
    x_high, y_low, y_high = 1.04 * max(xs) or 0.5, min(ys) - margin, max(ys) + margin
    x = Axis(x_title, 0.0, x_high, LEFT, RIGHT, ticks(0, x_high))
    return Chart(label, x, Axis(y_title, y_low, y_high, BOTTOM, TOP, ticks(y_low, y_high)), tuple(lines), tuple(marks))


def unit_chart(label: str, x_title: str, y_title: str, lines: Sequence[Line]) -> Chart:
    """A chart whose axes go from 0 to 1, with the diagonal."""
    quarters = (0, 0.25, 0.5, 0.75, 1)
    x, y = Axis(x_title, 0, 1, LEFT, RIGHT, quarters), Axis(y_title, 0, 1, BOTTOM, TOP, quarters)
    return Chart(label, x, y, (Line("", "diagonal", ((0, 0), (1, 1))), *lines))


def exit_colour(exit_index: int, n_exits: int) -> str:
    """The class of an exit's colour; main has one of its own."""
    return "main" if exit_index == n_exits - 1 else f"exit-{exit_index % EXIT_COLOURS}"


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(number * step, 10) for number in range(first, last + 1))
