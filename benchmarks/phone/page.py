"""The figure, and the tables of docs/phone.md, from the result file alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.markdown import ratio, titled
from benchmarks.phone.result import WAY
from benchmarks.provenance import Row

WORDS = {"both": "depth and sizes", "sizes": "sizes alone", "depth": "depth alone"}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Writes the figure as SVG: test accuracy against mean latency in int8, with standard errors."""
    quantized = [row for row in rows if "int8" in row["name"]]
    of_ours = [row for row in quantized if row["way"] == WAY]
    kinds = (
        ("plain, one training each", "tab:gray", "s", [row for row in quantized if row["way"] == "plain"]),
        ("ours, sub-models of one training", "tab:blue", "o", [r for r in of_ours if "progressive" not in r["name"]]),
        ("ours, progressive, the same training", "tab:red", "^", [r for r in of_ours if "progressive" in r["name"]]),
    )
    # Text as text, for a small file; a fixed salt, so that the same rows give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "lcprune", "font.size": 9.0}):
        figure = Figure(figsize=(6.5, 4.2), layout="constrained")
        panel = figure.subplots()
        for label, colour, marker, of_kind in kinds:
            if of_kind:
                _draw_kind(panel, of_kind, {"label": label, "color": colour, "marker": marker})
        panel.set_xlim(left=0)
        panel.set_xlabel("mean latency in int8, ms per image")
        panel.set_ylabel("test accuracy, %")
        panel.grid(color="0.93")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, loc="lower right")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_kind(panel: Any, rows: Sequence[Row], look: Mapping[str, Any]) -> None:
    """All models with their standard errors, and a line through those that no quicker one reaches."""
    ordered = sorted(rows, key=lambda row: float(row["latency_ms"]))
    costs, accuracies, errors = zip(
        *((row["latency_ms"], row["test_accuracy_pct"], row["se_pct"]) for row in ordered), strict=True
    )
    panel.errorbar(costs, accuracies, errors, linestyle="none", markersize=5, elinewidth=0.6, **look)
    best = [row for row in ordered if row["on_frontier"]]
    line = [row["latency_ms"] for row in best], [row["test_accuracy_pct"] for row in best]
    panel.plot(*line, color=look["color"], linewidth=0.8)


def page(result: Row) -> str:
    """All tables."""
    figure = "![Test accuracy against mean latency in int8](phone.svg)"
    parts = [figure, _models(result), _against_plain(result), _against_main(result), _training(result)]
    machine = f"{result['machine']['cpu']}, one thread, onnxruntime {result['versions']['onnxruntime']}"
    parts.append(f"From `benchmarks/results/phone_trash.json`, measured on {machine}.")
    return "\n\n".join(part for part in parts if part)


def _models(result: Row) -> str:
    base = next(row for row in result["rows"] if row["name"] == "plain 128 px, int8")
    rows = [
        [
            *(row["name"].replace(f"{WAY}: ", "ours: "), row["folds"]),
            *(f"{row['test_accuracy_pct']:.1f} ± {row['se_pct']:.1f}", f"{row['latency_ms']:.2f}"),
            *(f"{row['latency_ms'] / base['latency_ms']:.2f}", f"{row['size_bytes'] / 1000:,.0f}"),
        ]
        for row in result["rows"]
        if row["way"] in ("plain", WAY)
    ]
    title = (
        f"**Every model**: accuracy on the test images of the folds together, with one standard error, and the mean "
        f"latency over these images, batch 1 (median of {result['rounds']} rounds for each image)."
    )
    return titled(title, ["model", "folds", "test accuracy %", "ms", "to plain 128 px int8", "kB"], rows, rule="---")


def _against_plain(result: Row) -> str:
    rows = [[f"{row['plain']}", "as accurate as can be, no slower", *_compared(row)] for row in result["against_plain"]]
    if result["at_plain_accuracy"]:
        row = result["at_plain_accuracy"]
        rows.append([row["theirs"][0], "progressive, as accurate, as quick as can be", *_compared(row)])
    title = (
        "**Beside each plain model in int8, one of ours in int8**, which the validation images of each fold chose: "
        "its accuracy minus the plain one's in points, with one standard error of the differences image by "
        "image; its latency to the plain one's, with the quartiles of the rounds; and its size to the plain one's."
    )
    heads = ["plain", "chosen", "points", "latency", "size", "ours"]
    return titled(title, heads, [[*row[:-1], _named(row[-1])] for row in rows], rule="---") if rows else ""


def _against_main(result: Row) -> str:
    rows = [
        [WORDS[row["way"]], row["name"].partition(": progressive ")[2].removesuffix(", int8"), row["folds"]]
        + [f"{row['test_accuracy_pct']:.1f}", f"{row['latency_ms']:.2f}", *_compared(row)[:3]]
        for row in result["against_main"]
    ]
    title = (
        "**Exits in depth, sizes, and both**: progressive models in int8 by their budget (`--max-drop`), beside int8 "
        "main of the same run; points with one standard error of the differences image by image."
    )
    heads = ["exits", "budget", "folds", "test accuracy %", "ms", "points to main", "latency to main", "size to main"]
    return titled(title, heads, rows, rule="---") if rows else ""


def _training(result: Row) -> str:
    plain, ours = result["training"]["plain_cpu_s"], result["training"]["ours_cpu_s"]
    together = sum(seconds for size, seconds in plain.items() if size in ("64", "96", "128"))
    of_sizes = ", ".join(f"{size} px {seconds:,.0f} s" for size, seconds in plain.items())
    of_ours = "; ".join(f"{WORDS[name]} {s:,.0f} s ({s / together:.2f} of it)" for name, s in ours.items())
    text = f"**Training**, CPU seconds, mean over the folds: plain {of_sizes}, at 64, 96 and 128 px {together:,.0f} s."
    return f"{text} Ours: {of_ours}." if ours else text


def _compared(row: Row) -> list[Any]:
    points = f"{row['points']:+.1f} ± {row['points_se']:.1f}"
    found = {"median": row["latency"]["ratio"], "low": row["latency"]["low"], "high": row["latency"]["high"]}
    return [points, ratio(found), f"{row['size_ratio']:.2f}", row["ours"]]


def _named(names: Sequence[str]) -> str:
    return "; ".join(name.partition(": ")[2].removesuffix(", int8") for name in names)
