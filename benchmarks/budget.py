"""What an accuracy budget really loses on images that nobody has looked at, over many splits of a run's own images.

    python -m benchmarks.budget RUN [--save NAME] [--splits 200] [--draws 1000] [--before CHECKOUT] [--sizes 300 ...]

The stored validation and test logits of RUN are pooled and split anew: one part chooses the thresholds, the other shows
what they lose. For ``--confidence``, images are also drawn with replacement from the pool, the population then.
``--before`` names a checkout of commit 78d38dd, whose search for thresholds is run on the first splits as well. No
temperature is applied to the logits.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.provenance import RESULTS, Row, command_line, provenance, save
from lcprune import runs
from lcprune.analysis.budget import FOLDS, Calibration, Family
from lcprune.analysis.cost import ExitCost
from lcprune.analysis.evaluate import accuracies_pct
from lcprune.analysis.select import Budget, candidates_from, choose
from lcprune.analysis.temperature import temperatures
from lcprune.analysis.thresholds import Alternatives, Rows, Setting, rows_of
from lcprune.pipeline.costs import costs_of
from lcprune.specs import CRITERIA

BEFORE = "78d38dd"
"""The last commit with the search over combinations of thresholds."""
SIZES = (300, 650, 2_000, 5_000)
BUDGETS_PCT = (0.5, 1.0, 2.0)
SWEEP_PCT = (0.1, 0.2, 0.3, 0.4, 0.5, 0.64, 1.0, 2.0)
SELECT_PCT = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0)
CONFIDENCE = 0.95
CRITERION = "margin"
"""Of the draws with replacement, and of the sweep."""

Array, Ints = npt.NDArray[Any], npt.NDArray[np.int64]
Outcome = tuple[float, float, float, float]
"""Points really lost, MACs to main, points expected, and 1 where main is exported for want of a better."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and saves or prints the result."""
    parser = command_line("benchmarks.budget", __doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--save", metavar="NAME", help="write benchmarks/results/budget_NAME.json")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--draws", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--before", type=Path, help=f"a checkout of {BEFORE}")
    parser.add_argument("--before-splits", type=int, default=20)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    result = measure(options) | provenance("benchmarks.budget", options.seed)
    if options.save:
        folders = {str(options.run): "RUN", **({str(options.before): "CHECKOUT"} if options.before else {})}
        save(RESULTS / f"budget_{options.save}.json", result, folders)
    else:
        print(json.dumps(result, indent=2))


def measure(options: argparse.Namespace) -> Row:
    """All tables of a run."""
    folder, recipe = runs.open_run(options.run)
    arrays, cost = runs.read_predictions(folder), costs_of(folder, recipe)
    logits = np.concatenate([arrays["val_logits"], arrays["test_logits"]], axis=1)
    labels = np.concatenate([arrays["val_labels"], arrays["test_labels"]])
    pool = {criterion: rows_of(logits, labels, cost.cascade, criterion) for criterion in CRITERIA}
    sizes = [size for size in options.sizes if size < len(labels)]
    result: Row = {
        "recipe": recipe.name,
        "iterations": recipe.train.iterations,
        "accuracy_pct": list(accuracies_pct(logits, labels)),
        "images": len(labels),
        "splits": options.splits,
        "draws": options.draws,
        "oracle": oracle(pool["softmax"]),
        "sweep": sweep(arrays, cost.cascade),
        "select": select_rows(logits, labels, cost.exits, sizes, options),
    }
    with ProcessPoolExecutor(options.jobs) as executor:
        drawn = {CRITERION: pool[CRITERION]}
        draws = [executor.submit(draw_rows, drawn, size, options.draws, options.seed) for size in sizes]
        split = [
            executor.submit(split_rows, name, rows, size, count, options.seed)
            for name, rows, count in (
                *((name, {name: pool[name]}, options.splits) for name in CRITERIA),
                ("auto", pool, max(1, options.splits // 4)),
            )
            for size in sizes
        ]
        if options.before is not None:
            found = [
                executor.submit(before_rows, {criterion: pool[criterion]}, logits, labels, size, options)
                for criterion in ("softmax", "margin")
                for size in sizes
            ]
            result["before"] = {"commit": BEFORE, "rows": [row for rows in found for row in rows.result()]}
        result["rows"] = [row for rows in split for row in rows.result()]
        result["draw_rows"] = [row for rows in draws for row in rows.result()]
    return result


def splits_of(images: int, size: int, count: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """``count`` times: ``size`` images that decide, and all others."""
    for split in range(count):
        order = np.random.default_rng([seed, size, split]).permutation(images)
        yield order[:size], order[size:]


def take(rows: Alternatives, images: Ints) -> dict[Any, Rows]:
    """Some of the images, by every criterion."""
    return {criterion: of.take(images) for criterion, of in rows.items()}


def split_rows(name: str, rows: Alternatives, size: int, splits: int, seed: int) -> list[Row]:
    """What budgets lose on the images of a split that did not choose, a row for each budget and confidence."""
    images = next(iter(rows.values())).n
    found: dict[tuple[float, float | None], list[Outcome]] = {}
    for deciding, others in splits_of(images, size, splits, seed):
        family, unseen = Family(take(rows, deciding)), take(rows, others)
        for key in ((budget, confidence) for confidence in (None, CONFIDENCE) for budget in BUDGETS_PCT):
            found.setdefault(key, []).append(outcome(family.within_drop(*key), unseen))
    return [summary(name, size, *key, outcomes) for key, outcomes in found.items()]


def draw_rows(rows: Alternatives, size: int, draws: int, seed: int) -> list[Row]:
    """The same where the pool is the population: drawn with replacement, and the loss is that of the whole pool.

    Copies of an image are judged together in cross-validation: it is no new image to the thresholds that saw its copy.
    """
    images = next(iter(rows.values())).n
    found: dict[tuple[float, float | None], list[Outcome]] = {}
    for draw in range(draws):
        rng = np.random.default_rng([seed, size, draw, 1])
        deciding, folds = rng.integers(0, images, size), rng.permutation(images) % FOLDS
        family = Family(take(rows, deciding), folds=folds[deciding])
        for key in ((budget, CONFIDENCE) for budget in BUDGETS_PCT):
            found.setdefault(key, []).append(outcome(family.within_drop(*key), rows))
    return [summary(next(iter(rows)), size, *key, outcomes) for key, outcomes in found.items()]


def outcome(found: Calibration | None, unseen: Alternatives) -> Outcome:
    """What a choice does to images."""
    if found is None or not found.exits:
        return 0.0, 1.0, 0.0, 1.0
    lost_pct, macs_ratio = effect(Setting(found.criterion, found.exits, found.thresholds), unseen)
    return lost_pct, macs_ratio, found.expected_drop_pct, 0.0


def effect(setting: Setting, unseen: Alternatives) -> tuple[float, float]:
    """Points lost, and MACs to main's."""
    left_at, lost = setting.outcome(unseen)
    cost = next(iter(unseen.values())).cost
    return 100 * float(lost.mean()), float(np.take(cost.exit_macs(setting.exits), left_at).mean() / cost.main_macs)


def summary(name: str, size: int, budget_pct: float, confidence: float | None, outcomes: Sequence[Outcome]) -> Row:
    """Mean and spread over splits; where nothing could be defended, main is exported and loses nothing."""
    lost, macs, expected, refused = np.array(outcomes).T
    early = refused == 0
    return {
        "criterion": name,
        "deciding_images": size,
        "max_drop_pct": budget_pct,
        "confidence": confidence,
        "splits": len(lost),
        "lost_pct": float(lost.mean()),
        "lost_sd_pct": float(lost.std()),
        "over_budget_share": float(np.mean(np.round(lost, 6) > budget_pct)),
        "macs_ratio": float(macs.mean()),
        "refused_share": float(refused.mean()),
        "lost_pct_where_exported": float(lost[early].mean()) if early.any() else None,
        "macs_ratio_where_exported": float(macs[early].mean()) if early.any() else None,
        "expected_pct_where_exported": float(expected[early].mean()) if early.any() else None,
    }


def oracle(rows: Rows) -> Row:
    """If the exits were perfect judges: an image leaves at the first exit that is right, if none is, at the first."""
    macs = np.array(rows.cost.exit_macs())
    return {
        "accuracy_pct": 100 * float(rows.correct.any(axis=0).mean()),
        "macs_ratio": float(macs[rows.correct.argmax(axis=0)].mean() / rows.cost.main_macs),
    }


def sweep(arrays: Mapping[str, Array], cost: Any) -> list[Row]:
    """Budgets as `lcprune export` keeps them: validation images decide, test images are looked at once."""
    fitted = temperatures(arrays["val_logits"], arrays["val_labels"])
    val, test = (
        {CRITERION: rows_of(arrays[f"{split}_logits"], arrays[f"{split}_labels"], cost, CRITERION, fitted)}
        for split in ("val", "test")
    )
    family, main_pct, rows = Family(val), 100 * float(test[CRITERION].correct[-1].mean()), []
    for budget_pct in SWEEP_PCT:
        found = family.within_drop(budget_pct)
        lost_pct, macs_ratio, expected_pct, _ = outcome(found, test)
        error = found.expected_drop_se_pct if found else 0.0
        row = {"max_drop_pct": budget_pct, "expected_drop_pct": expected_pct, "expected_drop_se_pct": error}
        row |= {"val_macs_ratio": found.macs_ratio if found else 1.0, "test_macs_ratio": macs_ratio}
        rows.append({**row, "test_drop_pct": lost_pct, "test_accuracy_pct": main_pct - lost_pct})
    return rows


def select_rows(
    logits: Array, labels: Array, costs: Sequence[ExitCost], sizes: Sequence[int], options: argparse.Namespace
) -> list[Row]:
    """What the sub-model that `lcprune select` takes really loses, and what it was expected to."""
    predicted, found = np.eye(2, dtype=np.float32)[(logits.argmax(axis=2) != labels).astype(int)], []
    right = predicted[..., 0].astype(bool)
    zeros = np.zeros(len(labels), dtype=np.int64)
    for size in sizes:
        for budget_pct in SELECT_PCT:
            figures = []
            for deciding, others in splits_of(len(labels), size, options.splits, options.seed):
                candidates = candidates_from(costs, (predicted[:, deciding], zeros[deciding]))
                chosen = choose(candidates, Budget(budget_pct))
                lost = right[-1, others].mean() - right[chosen.exit_index, others].mean()
                figures.append((100 * float(lost), chosen.expected_drop_pct, chosen.macs_ratio))
            lost_pct, expected_pct, macs = np.mean(figures, axis=0)
            found.append({"deciding_images": size, "max_drop_pct": budget_pct, "lost_pct": float(lost_pct)})
            found[-1] |= {"expected_pct": float(expected_pct), "macs_ratio": float(macs)}
    return found


def before_rows(pool: Alternatives, logits: Array, labels: Array, size: int, options: argparse.Namespace) -> list[Row]:
    """What the search of `BEFORE` chooses on the same splits, and what ours costs where it loses as much."""
    ((criterion, rows),) = pool.items()
    splits = list(splits_of(len(labels), size, options.before_splits, options.seed))
    chosen = run_before(options.before, logits, labels, rows.cost, criterion, [deciding for deciding, _ in splits])
    unseen = [take(pool, others) for _, others in splits]
    curves = [
        [effect(setting, others) for setting in Family(take(pool, deciding)).settings]
        for (deciding, _), others in zip(splits, unseen, strict=True)
    ]
    lost_pct, macs = np.mean(curves, axis=0).T
    order, found = np.argsort(lost_pct), []
    for key in chosen[0]:
        outcomes = []
        for of_split, others in zip(chosen, unseen, strict=True):
            exits, thresholds = of_split[key]
            lost = effect(Setting(criterion, tuple(exits), tuple(thresholds)), others)
            outcomes.append((*lost, 0.0, float(not exits)))
        row = summary(criterion, size, *json.loads(key), outcomes)
        del row["expected_pct_where_exported"]
        row["ours_macs_ratio_at_equal_loss"] = float(np.interp(row["lost_pct"], lost_pct[order], macs[order]))
        found.append(row)
    return found


def run_before(
    checkout: Path, logits: Array, labels: Array, cost: Any, criterion: str, splits: Sequence[Ints]
) -> list[dict[str, Any]]:
    """Exits and thresholds of each split by the code of another checkout, by budget and confidence."""
    with tempfile.TemporaryDirectory() as folder:
        arrays = {"logits": logits, "labels": labels, "splits": np.stack(splits)}
        arrays |= {"groups": np.array(cost.group_macs), "critics": np.array(cost.critic_macs)}
        np.savez(Path(folder) / "in.npz", allow_pickle=False, **arrays)
        script = [sys.executable, "-P", Path(__file__).with_name("budget_before.py")]
        words = [checkout, f"{folder}/in.npz", criterion, json.dumps(BUDGETS_PCT)]
        return list(json.loads(subprocess.check_output([*script, *words], text=True)))


if __name__ == "__main__":
    main()
