"""Tables for the terminal: lists of rich tables and of lines of text, which `print_table` prints."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from lcprune_runtime.errors import printable

Shown = list[Table | str]

NOT_KNOWN = "-"
MOST_NAMED = 20
"""Bad images in a table."""
UNBOUNDED = 10_000
"""Columns off a terminal: paths must come out whole."""
WRAPPED = ("verdict", "what it is")
TEXTS = (*WRAPPED, "found", "class", "exit", "sub-model", "kind", "row")
"""Columns that hold words; all others but the first hold numbers."""


def print_table(shown: Shown | str, file: TextIO) -> None:
    """Prints tables and lines as plain text, without markup; off a terminal they are as wide as they need to be."""
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = UNBOUNDED
    for part in [shown] if isinstance(shown, str) else shown:
        console.print(printable(part) if isinstance(part, str) else part)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], bold: Sequence[int] = ()) -> Table:
    """A table of plain text; the rows with the indices `bold` are bold."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        is_text = index == 0 or column in TEXTS
        made.add_column(column, justify="left" if is_text else "right", no_wrap=column not in WRAPPED)
    for index, row in enumerate(rows):
        made.add_row(*(printable(str(cell)) for cell in row), style="bold" if index in bold else None)
    return made


def prediction_table(result: Mapping[str, Any]) -> Shown:
    """A line for each image."""
    progressive = result["kind"] == "progressive"
    rows = (
        [row["image"], row["class"], f"{row['confidence']:.4f}"]
        + ([row["exit"], share(row["macs_ratio"])] if progressive else [])
        for row in result["images"]
    )
    columns = ["image", "class", "confidence", *(["exit", "MACs of main"] if progressive else [])]
    return [table(columns, rows), *([f"contact sheet: {result['grid']}"] if "grid" in result else [])]


def bad_image_lines(bad: Sequence[Mapping[str, str]]) -> list[str]:
    """What is wrong with the images that could not be read."""
    lines = [f"cannot be read, left out: {len(bad)}", *(f"  {row['problem']}" for row in bad[:MOST_NAMED])]
    return [*lines, *([f"  and {len(bad) - MOST_NAMED} more (--json names them)"] if len(bad) > MOST_NAMED else [])]


def evaluation_table(result: Mapping[str, Any]) -> Shown:
    """Exits, ensembles, and early exits at several thresholds."""
    parts: Shown = []
    if result["exits"]:
        rows = [(row["name"], percent(row["accuracy_pct"])) for row in result["exits"]]
        for name, accuracy in result.get("ensembles", {}).items():
            rows.append((f"ensemble {name}", percent(accuracy)))
            for row in result.get("ensemble_kinds", ()):  # of a run; a file has no validation split
                if row["members"] == name and row["kind"] != "logits":
                    weights = f"weighted {' '.join(f'{weight:.2f}' for weight in row['weights'])}"
                    kind = "sum of probabilities" if row["kind"] == "probabilities" else weights
                    rows.append((f"  {kind}", percent(row["accuracy_pct"])))
        parts.append(table(["exit", "accuracy %"], rows))
    if result["progressive"]:
        cells = (
            [_thresholds(row["threshold"]), percent(row["accuracy_pct"]), millions(row["mean_macs"])]
            + [share(row["macs_ratio"]), shares(row["exit_fractions"])]
            for row in result["progressive"]
        )
        parts.append(table(["threshold", "accuracy %", "MACs", "of main", "leave at each exit"], cells))
    return [*parts, f"{result['split']}: {result['samples']} images"]


def bench_table(result: Sequence[Mapping[str, Any]]) -> Shown:
    """Models side by side."""
    on_images = "images" in result[0]
    rows = (
        [row["model"], row["kind"], kilobytes(row["size_bytes"])]
        + ([percent(row["accuracy_pct"]), milliseconds(row["latency_mean_ms"])] if on_images else [])
        + [milliseconds(row["latency_ms"]), milliseconds(row["latency_p95_ms"]), f"{row['ratio']:.2f}"]
        + ([shares(row["exit_fractions"])] if on_images else [])
        for row in result
    )
    columns = ["model", "kind", "file", *(["accuracy %", "mean"] if on_images else []), "median", "p95", "to the first"]
    what = f"each of {result[0]['images']:,} images once" if on_images else "a random image"
    exits = [
        f"{row['model']}, by exit: {', '.join(map(milliseconds, row['exit_latency_ms']))}; --data FOLDER shows where "
        "real images leave"
        for row in result
        if "exit_latency_ms" in row
    ]
    return [
        table([*columns, *(["leave at each exit"] if on_images else [])], rows),
        f"onnxruntime on this machine, batch 1, CPU time of one thread, runs taken in turn, {what}",
        *exits,
    ]


def millions(count: float) -> str:
    """``1.42M``."""
    return f"{count / 1e6:.2f}M"


def share(fraction: float | None) -> str:
    """``36.0 %``."""
    return NOT_KNOWN if fraction is None else f"{100 * fraction:.1f} %"


def percent(value: float | None) -> str:
    """Percent, or percentage points: ``92.39``."""
    return NOT_KNOWN if value is None else f"{value:.2f}"


def kilobytes(size: int | None) -> str:
    """``532 kB``."""
    return NOT_KNOWN if size is None else f"{size / 1000:,.0f} kB"


def milliseconds(value: float | None) -> str:
    """``1.25 ms``."""
    return NOT_KNOWN if value is None else f"{value:.2f} ms"


def _thresholds(values: float | Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values) if isinstance(values, Sequence) else f"{values:.2f}"


def shares(fractions: Iterable[float]) -> str:
    """``36.0 %  64.0 %``."""
    return "  ".join(map(share, fractions))


def duration(seconds: float) -> str:
    """A time for a person: ``42 s``, ``25 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
