"""A reproduced table as Markdown, and for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from lcprune_runtime.tables import NOT_KNOWN, Shown, millions, table

NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}


def markdown(result: Mapping[str, Any]) -> str:
    """Rows, tests, what differs from the paper, and where the figures come from."""
    names = columns(result)
    parts = [
        f"# {heading(result)}",
        result["note"],
        f"Unit: {result['unit']}.",
        "\n".join(f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *cells(result))),
        *[f"![{result['title']}]({figure})" for figure in result["figures"]],
        _list("Tests", test_lines(result)),
        _list("Failed", failure_lines(result)),
        _list("What differs from the paper", difference_lines(result)),
        _list("Where this comes from", provenance_lines(result)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def terminal(result: Mapping[str, Any]) -> Shown:
    """The same for a terminal, with the paths of the files instead of the provenance."""
    differs = difference_lines(result)
    return [
        heading(result),
        f"unit: {result['unit']}",
        table(columns(result), cells(result)),
        *test_lines(result),
        *(f"failed: {line}" for line in failure_lines(result)),
        *([result["note"]] if result["note"] else []),
        *(["what differs from the paper:", *(f"  {line}" for line in differs)] if differs else []),
        "written: " + ", ".join(result["files"]),
    ]


def heading(result: Mapping[str, Any]) -> str:
    """``Table 1: test accuracy of every method (small scale)``."""
    number = result["name"].replace("table", "Table ").replace("figure", "Figure ")
    scale = "" if result["name"] == "table5" else f" ({result['scale']} scale)"
    return f"{number}: {result['title']}{scale}"


def columns(result: Mapping[str, Any]) -> list[str]:
    """Headings of the table."""
    costs = ['paper\'s "FLOP"', "paper's", "true MACs", "of main"]
    if _has(result, "params"):
        return ["network", "parameters", "paper's", *costs]
    return [
        "dataset",
        "row",
        "here",
        "seeds",
        "paper",
        *(["stop at each exit", *costs] if _has(result, "mean_macs") else []),
    ]


def cells(result: Mapping[str, Any]) -> list[list[str]]:
    """The table's rows as text."""
    if _has(result, "params"):
        return [
            [row["name"], millions(row["params"]), f"{row['paper_params_millions']:.2f}M", *_cost_cells(row, "macs")]
            for row in result["rows"]
        ]
    return [
        [
            NAMES.get(row["dataset"], row["dataset"]),
            row["name"],
            spread(row["mean"], row["std"]),
            str(row["seeds"]),
            spread(row["paper_mean"], row["paper_std"]),
            *(_exit_cells(row) if "mean_macs" in row else []),
        ]
        for row in result["rows"]
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
    values = (
        (row["key"], *("none" if row[side] is None else row[side] for side in ("here", "paper")))
        for row in result["differs"]
    )
    return [f"{key}: {here} here, {paper} in the paper" for key, here, paper in values]


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
        return NOT_KNOWN
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def _has(result: Mapping[str, Any], key: str) -> bool:
    return any(key in row for row in result["rows"])


def _exit_cells(row: Mapping[str, Any]) -> list[str]:
    if row["mean_macs"] is None:
        return [NOT_KNOWN] * 5
    return ["  ".join(f"{100 * share:.1f} %" for share in row["exit_fractions"]), *_cost_cells(row, "mean_macs")]


def _cost_cells(row: Mapping[str, Any], macs: str) -> list[str]:
    paper = f"{row['paper_flop_millions']:.2f}M"
    return [millions(row["paper_flop"]), paper, f"{row[macs] / 1e6:.1f}M", f"{100 * row['macs_ratio']:.0f} %"]


def _list(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""
