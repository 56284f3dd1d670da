"""Structured pruning of a run's main, compared with the sub-models and progressive models of the same run.

    python -m benchmarks.pruning_comparison RUN --seconds 120

The library is torch-pruning: for each target of MACs its criteria are tried with a short fine-tuning, the best one on
validation gets the whole time, and the test images are read last. Our models take no further training. Every model is
written to ONNX, and all latencies are measured in one process, in turn, on the same test images. A finished model is
kept beside the run, so that the same command makes only what is missing.

Seconds to a model are CPU time of the process over its threads, so that a busy machine shortens no fine-tuning.
"""

import argparse
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import pruning
from benchmarks.provenance import RESULTS, Row, command_line, provenance, save
from benchmarks.pruning_models import load, progressive_model, pruned, submodel
from benchmarks.timing import mean_latencies, to_first
from lcprune.pipeline.metrics import seconds_trained

FIGURE = Path(__file__).parents[1] / "docs" / "pruning.svg"
BUDGETS_PCT = (0.3, 0.64, 1.0, 2.0, 4.0)
"""Points below main on validation that the progressive models may lose."""
MOST_TARGETS = 6
APART = 0.04
"""Two targets nearer than this, as a part of main's MACs, are one."""
TRIAL_SHARE = 1 / 8
"""Of the fine-tuning's time, for the trial of a criterion."""
COSTS = {"macs_ratio": "MACs for an image, to main's", "latency_ratio": "latency of an image, to main's"}
OURS = ("main", "sub-model", "progressive")
STYLES = {"progressive": ("#0b6e4f", "o"), "sub-model": ("#5aa9e6", "s"), "torch-pruning": ("#d1495b", "^")}
LABELS = {"progressive": "progressive model", "sub-model": "sub-model", "torch-pruning": "pruned and fine-tuned"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes what is missing, measures all of it, and writes the result file and the figure."""
    parser = command_line("benchmarks.pruning_comparison", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run with validation images")
    parser.add_argument("--ratios", type=float, nargs="+", help="targets, MACs to main's; left out, those of ours")
    parser.add_argument("--seconds", type=float, default=120.0, help="of computing, to fine-tune a pruned model")
    parser.add_argument("--trial-seconds", type=float, help="of each criterion's trial; left out, an eighth of that")
    parser.add_argument("--lr", type=float, nargs="+", default=[0.05], help="the best criterion gets each of them")
    parser.add_argument("--round-to", type=int, nargs="+", default=[1, 16], help="channels are a multiple; each")
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS_PCT), help="of ours, in points")
    parser.add_argument("--images", type=int, default=500, help="test images in a round of the latency")
    parser.add_argument("--rounds", type=int, default=9, help="of the latency")
    parser.add_argument("--out", type=Path, help="folder for the models; left out, RUN/pruning")
    parser.add_argument("--result", type=Path, default=RESULTS / "rival_cifar10.json")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args(arguments)
    result = compare(options)
    save(options.result, result)
    draw(result["rows"], options.figure)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All models with their latencies, and the differences at equal cost."""
    pruning.torch_pruning()  # if it is missing, before anything takes time
    subject = load(options.run, options.out)
    rows = [submodel(subject, k) for k in range(len(subject.cost.exits), 0, -1)]  # main first
    rows += [progressive_model(subject, budget_pct) for budget_pct in options.budgets]
    trial_s = options.seconds * TRIAL_SHARE if options.trial_seconds is None else options.trial_seconds
    for share in options.ratios or targets(rows):
        for round_to in options.round_to:
            rows.append(pruned(subject, share, round_to, options.lr, options.seconds, trial_s))
    rows = [row for row in rows if row["file"]]
    rows = with_latencies(rows, subject.out, subject.dataset.test.images[: options.images], options.rounds)
    result = provenance("benchmarks.pruning_comparison", subject.recipe.train.seed)
    result["versions"]["torch-pruning"] = metadata.version("torch-pruning")
    return {
        **result,
        "recipe": subject.recipe.name,
        "training_s": seconds_trained(options.run),
        "fine_tuning_s": options.seconds,
        "trial_s": trial_s,
        "latency": {"images": options.images, "rounds": options.rounds, "batch": 1, "threads": 1},
        "rows": rows,
        "standing": standing(rows),
        "time_to_model": _times(rows),
    }


def targets(rows: Sequence[Row]) -> list[float]:
    """MACs of ours to main's on validation, few first, without those nearly the same, or nearly main's."""
    shares = sorted(row["val_macs_ratio" if "val_macs_ratio" in row else "macs_ratio"] for row in rows if row["file"])
    found: list[float] = []
    for share in shares:
        if share <= 1 - APART and (not found or share - found[-1] >= APART):
            found.append(share)
    while len(found) > MOST_TARGETS:
        gaps = [found[index + 1] - found[index - 1] for index in range(1, len(found) - 1)]
        del found[1 + gaps.index(min(gaps))]
    return found


def with_latencies(rows: Sequence[Row], folder: Path, images: np.ndarray[Any, Any], rounds: int) -> list[Row]:
    """The rows, main first, with the mean time of an image, batch 1, one thread: median over rounds, and to main's."""
    ordered = sorted(rows, key=lambda row: row["kind"] != "main")
    found = to_first(mean_latencies({row["file"]: folder / row["file"] for row in ordered}, images, rounds))
    for row in ordered:
        of_row = found[row["file"]]
        row |= {"latency_ms": of_row["ms"], "latency_ratio": of_row["ratio"]}
        row["latency_ratio_quartiles"] = [of_row["low"], of_row["high"]]
    return ordered


def _times(rows: Sequence[Row]) -> Row:
    """Median seconds to a model of ours and to a pruned one, and their ratio."""
    ours_s, pruned_s = (
        [row["time_to_model_s"] for row in rows if row["kind"] in kinds]
        for kinds in (("sub-model", "progressive"), ("torch-pruning",))
    )
    found: Row = {key: float(np.median(of)) if of else None for key, of in (("ours_s", ours_s), ("pruned_s", pruned_s))}
    return {**found, "ratio": found["pruned_s"] / found["ours_s"] if ours_s and pruned_s else None}


def frontier(rows: Sequence[Row], cost: str, accuracy: str = "test_accuracy_pct") -> list[tuple[float, float]]:
    """Cost and accuracy of the models that no cheaper one reaches, cheapest first."""
    kept: list[tuple[float, float]] = []
    for found, accuracy_pct in sorted((row[cost], -row[accuracy]) for row in rows):
        if not kept or -accuracy_pct > kept[-1][1]:
            kept.append((found, -accuracy_pct))
    return kept


def standing(rows: Sequence[Row]) -> list[Row]:
    """For each pruned model, the points by which our frontier lies above it at its own MACs and latency.

    Between two of our models the frontier is a straight line, since thresholds can be set anywhere between. None where
    nothing of ours is as cheap as the pruned model.
    """
    ours = [row for row in rows if row["kind"] in OURS]
    found = []
    for row in rows:
        if row["kind"] != "torch-pruning":
            continue
        ahead = {f"ahead_at_{cost}_pct": _ahead_pct(row, frontier(ours, cost), cost) for cost in COSTS}
        found.append({"name": row["name"], **ahead})
    return found


def _ahead_pct(row: Row, ours: Sequence[tuple[float, float]], cost: str) -> float | None:
    costs, accuracies_pct = zip(*ours, strict=True)
    if row[cost] < costs[0]:
        return None
    return float(np.interp(row[cost], costs, accuracies_pct)) - float(row["test_accuracy_pct"])


def draw(rows: Sequence[Row], path: Path) -> None:
    """Writes the figure as SVG: one panel for each cost."""
    # Text as text, for a small file; a fixed salt, so that the same rows give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "lcprune", "font.size": 9.0}):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        panels = figure.subplots(1, len(COSTS), sharey=True)
        for panel, (cost, label) in zip(panels, COSTS.items(), strict=True):
            _panel(panel, rows, cost)
            panel.set_xlabel(label)
        panels[0].set_ylabel("test accuracy, %")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(panel: Axes, rows: Sequence[Row], cost: str) -> None:
    main = next(row for row in rows if row["kind"] == "main")
    panel.axhline(main["test_accuracy_pct"], color="0.75", linewidth=0.8, zorder=0)
    panel.plot([main[cost]], [main["test_accuracy_pct"]], "k*", markersize=9, label="main")
    for kind, (colour, marker) in STYLES.items():
        of_kind = sorted((row for row in rows if row["kind"] == kind), key=lambda row: float(row[cost]))
        if not of_kind:
            continue
        label = f"{LABELS[kind]}: {_seconds([row['time_to_model_s'] for row in of_kind])} each"
        for index, round_to in enumerate(sorted({row.get("round_to", 1) for row in of_kind})):
            alike = [row for row in of_kind if row.get("round_to", 1) == round_to]
            places = [row[cost] for row in alike], [row["test_accuracy_pct"] for row in alike]
            name = label if round_to == 1 else f"{label}, channels by {round_to}"
            filled = "full" if index == 0 else "none"
            look: dict[str, Any] = {"color": colour, "marker": marker, "fillstyle": filled, "label": name}
            panel.plot(*places, linestyle="-" if index == 0 else "--", linewidth=1, markersize=5, **look)
    panel.set_xlim(left=0)
    panel.grid(color="0.93")
    panel.spines[["top", "right"]].set_visible(False)


def _seconds(values: Sequence[float]) -> str:
    median = float(np.median(values))
    return f"{median:.1f} s" if median < 10 else f"{median:.0f} s"


if __name__ == "__main__":
    main()
