"""What structured pruning makes of a run's main, beside the sub-models and the progressive models of the same run.

    python -m benchmarks.rival RUN --seconds 120 --save

The rival is torch-pruning: for each target of MACs its criteria are tried with a short fine-tuning, the best one on
validation gets the whole time, and the test images are looked at last. Ours take no further training. Every model is
written to ONNX, and all latencies are measured in one process, in turn, on the same test images. A model that is
finished is kept beside the run, so that the same command, given again, makes the rest.

Seconds of making a model are those of computing (CPU time of the process over its threads), so that a busy machine
shortens nobody's fine-tuning.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pruning
from benchmarks.case import Row
from benchmarks.image_latency import mean_latencies, to_first
from benchmarks.provenance import provenance
from benchmarks.rival_figure import draw, standing
from benchmarks.rival_models import load, progressive_model, pruned, submodel
from lcprune import runs

RESULT = Path(__file__).parent / "results" / "rival_cifar10.json"
FIGURE = Path(__file__).parents[1] / "docs" / "rival.svg"
BUDGETS_PCT = (0.3, 0.64, 1.0, 2.0, 4.0)
"""Points below main on validation that the progressive models may lose."""
MOST_TARGETS = 6
APART = 0.04
"""Two targets nearer than this, as a part of main's MACs, are one."""
TRIAL_SHARE = 1 / 8
"""Of the fine-tuning's time, for the trial of a criterion."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes what is missing, measures all of it, prints a table, and saves with ``--save``."""
    options = _parse(arguments)
    result = compare(options)
    print(table(result))
    if options.save:
        options.result.parent.mkdir(parents=True, exist_ok=True)
        options.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        draw(result["rows"], options.figure)
        print(f"{options.result}\n{options.figure}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rival", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run with validation images")
    parser.add_argument("--ratios", type=float, nargs="+", help="targets, MACs to main's; left out, those of ours")
    parser.add_argument("--seconds", type=float, default=120.0, help="of computing, to fine-tune a pruned model")
    parser.add_argument("--trial-seconds", type=float, help="of each criterion's trial; left out, an eighth of that")
    parser.add_argument("--lr", type=float, nargs="+", default=[0.05], help="the winner is fine-tuned with each")
    parser.add_argument("--round-to", type=int, nargs="+", default=[1, 16], help="channels are a multiple; each")
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS_PCT), help="of ours, in points")
    parser.add_argument("--images", type=int, default=500, help="test images in a round of the latency")
    parser.add_argument("--rounds", type=int, default=9, help="of the latency")
    parser.add_argument("--out", type=Path, help="folder for the models; left out, RUN/rival")
    parser.add_argument("--save", action="store_true", help="write the result file and the figure")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All models, made or taken as they are, with their latencies and who is ahead where."""
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
    result = provenance("benchmarks.rival", subject.recipe.train.seed)
    result["versions"]["torch-pruning"] = metadata.version("torch-pruning")
    return {
        **result,
        "recipe": subject.recipe.name,
        "training_s": training_s(options.run),
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


def training_s(run: Path) -> float:
    """Seconds of the run's own training, which both sides start from, by its log."""
    folder, recipe = runs.open_run(run)
    total, before = 0.0, 0
    for line in map(json.loads, (folder / runs.METRICS).read_text(encoding="utf-8").splitlines()):
        if "images_per_s" in line:
            total += (line["step"] - before) * recipe.data.batch_size / line["images_per_s"]
            before = line["step"]
    return total


def with_latencies(rows: Sequence[Row], folder: Path, images: np.ndarray[Any, Any], rounds: int) -> list[Row]:
    """The rows, main first, with the mean time of an image, batch 1, one thread: median over rounds, and to main's."""
    ordered = sorted(rows, key=lambda row: row["kind"] != "main")
    found = to_first(mean_latencies({row["file"]: folder / row["file"] for row in ordered}, images, rounds))
    return [
        {
            **row,
            "latency_ms": found[row["file"]]["ms"],
            "latency_ratio": found[row["file"]]["ratio"],
            "latency_ratio_quartiles": [found[row["file"]]["low"], found[row["file"]]["high"]],
        }
        for row in ordered
    ]


def _times(rows: Sequence[Row]) -> Row:
    """Seconds to a model: medians of ours and of the rival's, and how many times as long the rival takes."""
    ours, rival = (
        [row["time_to_model_s"] for row in rows if row["kind"] in kinds]
        for kinds in (("sub-model", "progressive"), ("torch-pruning",))
    )
    found: Row = {"ours_s": float(np.median(ours)) if ours else None}
    found["rival_s"] = float(np.median(rival)) if rival else None
    return {**found, "ratio": found["rival_s"] / found["ours_s"] if ours and rival else None}


def table(result: Mapping[str, Any]) -> str:
    """One line per model, and what our frontier says to the rival's."""
    ahead = {row["name"]: row for row in result["standing"]}
    lines = [
        f"{'model':28} {'MACs':>6} {'latency':>8} {'ms':>7} {'kB':>6} {'val %':>6} {'test %':>6} {'to model':>9}  "
        "ours is ahead by, at the same MACs, latency"
    ]
    for row in sorted(result["rows"], key=lambda row: (row["kind"], row["macs"])):
        gaps = [
            "nothing of ours is as cheap" if gap is None else f"{gap:+.2f}"
            for key, gap in ahead.get(row["name"], {}).items()
            if key != "name"
        ]
        lines.append(
            f"{row['name']:28} {row['macs_ratio']:6.3f} {row['latency_ratio']:8.3f} {row['latency_ms']:7.3f} "
            f"{row['size_bytes'] / 1000:6.0f} {row['val_accuracy_pct']:6.2f} {row['test_accuracy_pct']:6.2f} "
            f"{row['time_to_model_s']:7.1f} s  {', '.join(gaps)} {row.get('criterion', '')}".rstrip()
        )
    times = result["time_to_model"]
    if times["ratio"] is not None:
        lines.append(
            f"time to a model: {times['ours_s']:.1f} s against {times['rival_s']:.1f} s, {times['ratio']:.0f} x"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
