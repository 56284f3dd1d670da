"""A reproduced table as Markdown, and for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from lcprune.reporting.tables import escape

NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}


def markdown(result: Mapping[str, Any]) -> str:
    """Rows, tests, what differs from the paper, and where the figures come from."""
    parts = [
        f"# {heading(result)}",
        result["note"],
        f"Unit: {result['unit']}.",
        _table(columns(result), cells(result)),
        *[f"![{result['title']}]({figure})" for figure in result.get("figures", ()) if figure.endswith(".png")],
        _list("Tests", test_lines(result)),
        _list("Failed", failure_lines(result)),
        _list("What differs from the paper", difference_lines(result)),
        _list("Where this comes from", provenance_lines(result)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def terminal(result: Mapping[str, Any]) -> RenderableType:
    """The same for a terminal, with the paths of the files instead of the provenance."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns(result):
        is_text = name in ("dataset", "row", "network")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    for row in cells(result):
        table.add_row(*(escape(cell) for cell in row))
    differs = difference_lines(result)
    lines = [
        *test_lines(result),
        *(f"failed: {line}" for line in failure_lines(result)),
        *([result["note"]] if result["note"] else []),
        *(["what differs from the paper:", *(f"  {line}" for line in differs)] if differs else []),
        "written: " + ", ".join(result["files"]),
    ]
    return Group(escape(heading(result)), f"unit: {result['unit']}", table, *(escape(line) for line in lines))


def heading(result: Mapping[str, Any]) -> str:
    """``Table 1: test accuracy of every method (small scale)``."""
    number = result["name"].replace("table", "Table ").replace("figure", "Figure ")
    scale = "" if result["name"] == "table5" else f" ({result['scale']} scale)"
    return f"{number}: {result['title']}{scale}"


def columns(result: Mapping[str, Any]) -> list[str]:
    """Headings of the table."""
    rows = result["rows"]
    if any("params" in row for row in rows):
        return ["network", "parameters", "paper's", 'paper\'s "FLOP"', "paper's", "true MACs", "of main"]
    extra = ["stop at each exit", 'paper\'s "FLOP"', "paper's", "true MACs", "of main"] if _is_progressive(rows) else []
    return ["dataset", "row", "here", "seeds", "paper", *extra]


def cells(result: Mapping[str, Any]) -> list[list[str]]:
    """The table's rows as text."""
    rows = result["rows"]
    if any("params" in row for row in rows):
        return [_cost_cells(row) for row in rows]
    extra = _progressive_cells if _is_progressive(rows) else lambda _: []
    return [
        [
            NAMES.get(row["dataset"], row["dataset"]),
            row["name"],
            spread(row["mean"], row["std"]),
            str(row["seeds"]),
            spread(row["paper_mean"], row["paper_std"]),
            *extra(row),
        ]
        for row in rows
    ]


def test_lines(result: Mapping[str, Any]) -> list[str]:
    """A line for each test."""
    lines = []
    for test in result["tests"]:
        where = f"{' against '.join(test['rows'])} on {NAMES.get(test['dataset'], test['dataset'])}"
        if test["p"] is None:
            lines.append(f"{where}: {test['reason']}")
        else:
            verdict = "significant" if test["significant"] else "not significant"
            lines.append(f"{where}: p = {test['p']:.4f} ({test['test']}), {verdict} at 0.05")
    return lines


def failure_lines(result: Mapping[str, Any]) -> list[str]:
    """A line for each run that has no result."""
    return [
        f"{row['name']} on {NAMES.get(row['dataset'], row['dataset'])}, seed {failure['seed']}: {failure['problem']}"
        for row in result["rows"]
        for failure in row.get("failed", ())
    ]


def difference_lines(result: Mapping[str, Any]) -> list[str]:
    """A line for each setting that is not the paper's."""
    return [
        f"{row['key']}: {_value(row['here'])} here, {_value(row['paper'])} in the paper" for row in result["differs"]
    ]


def provenance_lines(result: Mapping[str, Any]) -> list[str]:
    """Command, machine, versions, seeds and time."""
    source = result["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in source["versions"].items())
    lines = [
        f"command: `{source['command']}`",
        f"machine: {source['machine']['cpu']}, {source['machine']['cores']} cores, {source['machine']['system']}",
        f"versions: {versions}",
    ]
    if source["runs"]:
        lines.append(f"runs: {source['runs']}, seeds {', '.join(map(str, source['seeds']))}")
        lines.append(f"trained for {source['seconds_trained']:.0f} s in all, on: {'; '.join(source['trained_on'])}")
    return lines


def spread(mean: float | None, std: float | None) -> str:
    """``92.39 ± 0.09``; a dash where there is nothing."""
    if mean is None:
        return "-"
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def _is_progressive(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any("mean_macs" in row for row in rows)


def _cost_cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["name"],
        f"{row['params'] / 1e6:.2f}M",
        f"{row['paper_params_millions']:.2f}M",
        f"{row['paper_flop'] / 1e6:.2f}M",
        f"{row['paper_flop_millions']:.2f}M",
        f"{row['macs'] / 1e6:.1f}M",
        f"{100 * row['macs_ratio']:.0f} %",
    ]


def _progressive_cells(row: Mapping[str, Any]) -> list[str]:
    if row["mean_macs"] is None:
        return ["-"] * 5
    return [
        "  ".join(f"{100 * share:.1f} %" for share in row["exit_fractions"]),
        f"{row['paper_flop'] / 1e6:.2f}M",
        f"{row['paper_flop_millions']:.2f}M",
        f"{row['mean_macs'] / 1e6:.1f}M",
        f"{100 * row['macs_ratio']:.0f} %",
    ]


def _value(value: Any) -> str:
    return "none" if value is None else str(value)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _list(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""
