"""What each critic head costs and is worth as an exit: accuracy, MACs, and progressive inference, in one table.

    python -m benchmarks.heads --out FOLDER --iterations 4000 [--data-root data] [--only WORD ...] [--list]

Every case is ``lcprune train vgg_cifar10_small`` with overrides. The result is written after each case; a case that is
in it is skipped, and a run that was stopped goes on, so that the same command, given again, finishes the rest. Two
validation accuracies that lie closer than about a point are one seed's luck.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Row
from benchmarks.cifar10_small import lcprune
from benchmarks.provenance import provenance
from lcprune import recipe as recipes
from lcprune import runs
from lcprune.analysis.budget import Family
from lcprune.analysis.evaluate import CascadeCost, accuracies_pct, sweep
from lcprune.analysis.profile import NetworkCost, profile
from lcprune.analysis.thresholds import rows_of
from lcprune.pipeline.dry_run import dry_run
from lcprune.pipeline.stored import load_network

RECIPE = "vgg_cifar10_small"
RESULT = Path(__file__).parent / "results" / "heads.json"
MAX_DROP_PCT = 0.64
"""Points below main that progressive inference may lose on validation; the paper's own for its 19.40 %."""

PLACES = {"LC(3)": (2, 5, 8), "LC(5)": (2, 4, 6, 8, 10)}
SIZES = {2: 32, 4: 16, 5: 16, 6: 8, 8: 8, 10: 4}
"""Height and width after each of these convolutions, with CIFAR's images."""
DISTILL = (0.0, 0.5)

Setting = str | int | Mapping[int, int]
"""Of a key of ``critics``: one value, or one for each height and width of the hidden layer."""

HEADS: dict[str, dict[str, Setting]] = {
    "pooled, wide": {"head": "pooled", "channels": 128, "pool_to": 4},  # as the recipe ships
    "pooled, narrow": {"head": "pooled", "channels": {32: 64, 16: 32, 8: 32, 4: 16}, "pool_to": 4},
    "pooled, deep and narrow": {
        "head": "pooled",
        "depth": {32: 3, 16: 2, 8: 2, 4: 1},
        "channels": {32: 16, 16: 16, 8: 32, 4: 32},
        "pool_to": {32: 8, 16: 8, 8: 4, 4: 4},
    },
    "pooled, linear only": {"head": "pooled", "depth": 0, "pool_to": 4},
    "global, 3x3": {
        "head": "global",
        "channels": {32: 32, 16: 64, 8: 64, 4: 32},
        "pool_to": {32: 8, 16: 4, 8: 4, 4: 4},
    },
    "global, 1x1": {
        "head": "global",
        "kernel": 1,
        "channels": {32: 64, 16: 64, 8: 128, 4: 128},
        "pool_to": {32: 16, 16: 8, 8: 4, 4: 4},
    },
    "separable": {
        "head": "separable",
        "depth": {32: 2, 16: 2, 8: 1, 4: 1},
        "channels": {32: 64, 16: 64, 8: 128, 4: 128},
        "pool_to": {32: 8, 16: 8, 8: 4, 4: 4},
    },
    "strided": {
        "head": "strided",
        "depth": {32: 0, 16: 0, 8: 0, 4: 1},
        "channels": {32: 12, 16: 16, 8: 32, 4: 32},
        "pool_to": 4,
    },
}


@dataclass(frozen=True)
class Case:
    """A run of the comparison."""

    name: str
    overrides: tuple[str, ...]
    """``KEY=VALUE`` each, on top of the recipe."""


def all_cases() -> list[Case]:
    """Every head at the places of LC(3) and LC(5), with and without distillation, and the paper's head once."""
    paper = Case("paper, LC(3)", ("critics.after=[2, 5, 8]", "critics.head=paper"))
    return [paper] + [
        Case(
            f"{head}, {places}" + (f", distill {distill:g}" if distill else ""),
            (*overrides(HEADS[head], PLACES[places]), f"critics.distill={distill:g}"),
        )
        for distill in DISTILL
        for places in PLACES
        for head in HEADS
    ]


def overrides(settings: Mapping[str, Setting], after: Sequence[int]) -> tuple[str, ...]:
    """The keys of a head whose critics sit after these convolutions."""
    values = {
        key: [value[SIZES[place]] for place in after] if isinstance(value, Mapping) else value
        for key, value in settings.items()
    }
    return (f"critics.after={list(after)}", *(f"critics.{key}={value}" for key, value in values.items()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing and writes the result and its table."""
    options = _parse(arguments)
    cases = [case for case in all_cases() if not options.only or any(word in case.name for word in options.only)]
    if options.list:
        for case in cases:
            print(f"{_cascade_ratio(case, options):.3f}  {case.name}: {' '.join(case.overrides)}")
        return
    run(cases, options)
    print(f"{options.result}\n{options.result.with_suffix('.md')}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heads", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/heads"), help="folder for the run folders")
    parser.add_argument("--iterations", type=int, default=4000, help="of every case")
    parser.add_argument("--seed", type=int, default=0, help="of every case")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder with CIFAR-10")
    parser.add_argument("--device", default="cpu", help="where to train")
    parser.add_argument("--recipe", default=RECIPE, help="what the overrides are applied to")
    parser.add_argument("--max-drop", type=float, default=MAX_DROP_PCT, help="points for progressive inference")
    parser.add_argument("--result", type=Path, default=RESULT, help="the result file; the table lies beside it")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="cases whose name has one of these words in it")
    parser.add_argument("--list", action="store_true", help="print the cascade's MACs to main's, and train nothing")
    return parser.parse_args(arguments)


def run(cases: Sequence[Case], options: argparse.Namespace) -> None:
    """Trains the cases that the result does not hold, and writes it after each."""
    options.out.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(cases, start=1):
        keys = keys_of(case, options)
        folder = options.out / _folder_name(case, options.recipe, keys)
        result = json.loads(options.result.read_text(encoding="utf-8")) if options.result.exists() else {"rows": []}
        if any(row["run"] == folder.name and row["max_drop_pct"] == options.max_drop for row in result["rows"]):
            print(f"[{number}/{len(cases)}] {case.name}: is in the result", flush=True)
            continue
        print(f"[{number}/{len(cases)}] {case.name} ...", flush=True)
        trained = _train(folder, keys, options)
        row = {"case": case.name, **_what(options), "overrides": list(case.overrides), "seconds": trained["seconds"]}
        _write(options.result, result["rows"], row | measure(folder, options.max_drop), options.seed)


def keys_of(case: Case, options: argparse.Namespace) -> tuple[str, ...]:
    """All overrides of a run: those of the case, its length and its seed."""
    return (*case.overrides, f"train.iterations={options.iterations}", f"train.seed={options.seed}")


def measure(folder: Path, max_drop_pct: float) -> Row:
    """Accuracy and cost of a finished run's exits, and of progressive inference with thresholds from validation."""
    folder, recipe = runs.open_run(folder)
    network, facts = load_network(folder, recipe)
    cost = profile(network, facts.image_shape)
    arrays = runs.read_predictions(folder)
    row: Row = {"run": folder.name, "macs": [of_exit.macs for of_exit in cost.exits]}
    row |= {"critic_macs": list(cost.critic_macs), "cascade_macs": cost.cascade_macs}
    for split in ("val", "test"):
        accuracies = accuracies_pct(arrays[f"{split}_logits"], arrays[f"{split}_labels"])
        row[f"{split}_accuracy_pct"] = list(accuracies)
    return row | {"max_drop_pct": max_drop_pct, "progressive": _progressive(arrays, cost, max_drop_pct)}


def _progressive(arrays: Mapping[str, np.ndarray[Any, Any]], cost: NetworkCost, max_drop_pct: float) -> Row:
    """Cheapest thresholds within the budget on validation, and what they do there and on the test images."""
    of_cascade = CascadeCost(cost.group_macs, cost.critic_macs)
    chosen = Family({"softmax": rows_of(arrays["val_logits"], arrays["val_labels"], of_cascade)}).within_drop(
        max_drop_pct
    )
    if chosen is None:
        raise ValueError(f"no thresholds lose at most {max_drop_pct} points")
    kept = [*chosen.exits, len(cost.exits) - 1]
    row: Row = {"exits": list(chosen.exits), "thresholds": list(chosen.thresholds)}
    for split in ("val", "test"):
        logits, labels = arrays[f"{split}_logits"], arrays[f"{split}_labels"]
        exit_macs = of_cascade.exit_macs(chosen.exits)
        found = sweep(logits[kept], labels, exit_macs, of_cascade.main_macs, [chosen.thresholds])[0]
        main_pct = accuracies_pct(logits[-1:], labels)[0]
        row[split] = {
            "accuracy_pct": found.accuracy_pct,
            "drop_pct": round(main_pct - found.accuracy_pct, 6),
            "mean_macs": found.mean_macs,
            "macs_ratio": found.macs_ratio,
            "exit_fractions": list(found.exit_fractions),
        }
    return row


def page(result: Mapping[str, Any]) -> str:
    """The table, cheapest progressive inference on validation first."""
    header = (
        *("case", "steps", "critics / main", "validation accuracy %", "test accuracy %"),
        *("MACs / main, validation", "test", "drop on test", "exits kept", "seconds"),
    )
    rows = sorted(result["rows"], key=lambda row: (-row["iterations"], row["progressive"]["val"]["macs_ratio"]))
    lines: list[tuple[str, ...]] = [header, ("---",) * len(header), *map(_line, rows)]
    machine = result["machine"]
    return (
        "# Critic heads\n\n"
        f"`{result['command']}` on {machine['cpu']}, threads: {machine['threads']} of {machine['cores']}. "
        "Accuracies are those of the exits, shallow first, main last. The last columns are progressive inference with "
        "the exits and thresholds that cost least on validation within the budget, critics included; the test images "
        "decide nothing. One seed: read differences of a point or less as none.\n\n"
        + "\n".join(f"| {' | '.join(line)} |" for line in lines)
        + "\n"
    )


def _line(row: Row) -> tuple[str, ...]:
    of_val, of_test = row["progressive"]["val"], row["progressive"]["test"]
    main_macs = row["macs"][-1]
    return (
        row["case"],
        f"{row['iterations']:,}",
        " ".join(f"{macs / main_macs:.3f}" for macs in row["critic_macs"]),
        *(" ".join(f"{pct:.2f}" for pct in row[f"{split}_accuracy_pct"]) for split in ("val", "test")),
        f"{of_val['macs_ratio']:.3f} ({row['max_drop_pct']:g} points)",
        f"{of_test['macs_ratio']:.3f}",
        f"{of_test['drop_pct']:.2f}",
        " ".join(str(exit_index + 1) for exit_index in row["progressive"]["exits"]) or "none",
        f"{row['seconds']:.0f}",
    )


def _train(folder: Path, keys: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Trains, goes on with what was stopped, or takes what is there."""
    if folder.exists():
        return lcprune("resume", str(folder), "--device", options.device)
    words = [word for key in keys for word in ("--set", key)]
    places = ["--out", str(folder), "--data-root", str(options.data_root), "--device", options.device]
    return lcprune("train", options.recipe, *places, *words)


def _folder_name(case: Case, recipe: str, keys: Sequence[str]) -> str:
    """Another one as soon as anything is trained otherwise."""
    digest = hashlib.sha256(repr((recipe, *keys)).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^a-z0-9]+', '-', case.name.lower()).strip('-')}-{digest}"


def _what(options: argparse.Namespace) -> Row:
    return {"recipe": options.recipe, "iterations": options.iterations, "seed": options.seed}


def _write(path: Path, rows: Sequence[Row], row: Row, seed: int) -> None:
    """Adds a row; one of the same case, recipe, length and seed makes room for it."""
    same = ("case", "recipe", "iterations", "seed")
    others = [other for other in rows if any(other[key] != row[key] for key in same)]
    result = {**provenance("benchmarks.heads", seed), "rows": [*others, row]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page(result), encoding="utf-8")


def _cascade_ratio(case: Case, options: argparse.Namespace) -> float:
    """MACs of a row that leaves nowhere, to main's."""
    found = dry_run(recipes.load(options.recipe, keys_of(case, options)), options.data_root)
    return float(found["cascade_macs"] / found["candidates"][-1]["macs"])


if __name__ == "__main__":
    main()
