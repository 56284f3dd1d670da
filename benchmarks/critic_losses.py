"""What the critics' loss is worth: accuracy of every exit by loss, at the same number of steps.

    python -m benchmarks.critic_losses --out FOLDER --iterations 2000 --seeds 0 1 [--only NAME ...] [--data-root data]

Every case is ``lcprune train vgg_cifar10_small`` with overrides. The result is written after each; what is in it is not
run again, and a run that was stopped goes on. Cases differ in nothing but what is named.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import train
from benchmarks.markdown import table
from benchmarks.provenance import RESULTS, Row, command_line, provenance, read, save
from lcprune import runs
from lcprune.analysis.evaluate import accuracies_pct

RECIPE = "vgg_cifar10_small"
CRITICS = {
    "cross_entropy": "loss=cross_entropy",
    "cross_entropy, lr 3e-3": "loss=cross_entropy lr=3e-3",
    "cross_entropy, distill 0.5": "loss=cross_entropy distill=0.5",
    "cascade": "loss=cascade",
    "cascade, one-sided": "loss=cascade one_sided=true",
    "cascade, lr 3e-3": "loss=cascade lr=3e-3",
    "mix 0.2": "loss=mix mix=0.2",
    "mix 0.5": "loss=mix mix=0.5",
    "mix 0.8": "loss=mix mix=0.8",
    "mix 0.5, one-sided": "loss=mix mix=0.5 one_sided=true",
    "mix 0.5, distill 0.5": "loss=mix mix=0.5 distill=0.5",
    "mix 0.2, lr 3e-3": "loss=mix mix=0.2 lr=3e-3",
    "mix 0.2, lr 1e-2": "loss=mix mix=0.2 lr=1e-2",
    "mix 0.2, one-sided, lr 3e-3": "loss=mix mix=0.2 one_sided=true lr=3e-3",
    "mix 0.2, lr 3e-4": "loss=mix mix=0.2 lr=3e-4",
    "mix 0.2, constant lr": "loss=mix mix=0.2 schedule=constant",
}
"""Keys of the recipe's ``critics``, by the name of the case."""
CASES = {"deep_supervision": ["train.method=deep_supervision"]} | {
    name: ["train.method=local_critic", *(f"critics.{key}" for key in keys.split())] for name, keys in CRITICS.items()
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing and writes the result."""
    parser = command_line("benchmarks.critic_losses", __doc__, trains=True)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME", help="these cases")
    parser.add_argument("--result", type=Path, default=RESULTS / "critic_losses.json", help="the result file")
    options = parser.parse_args(arguments)
    old = read(options.result).get("rows", [])
    rows = {(row["case"], row["iterations"], row["seed"]): row for row in old}
    for seed in options.seeds:
        for name in options.only:
            if (name, options.iterations, seed) in rows:
                continue
            rows[name, options.iterations, seed] = _row(name, seed, options)
            about = {**provenance("benchmarks.critic_losses", options.seeds[0]), "recipe": RECIPE}
            folders = {str(options.out): "FOLDER", str(options.data_root): "data"}
            save(options.result, {**about, "rows": list(rows.values())}, folders)


def _row(name: str, seed: int, options: argparse.Namespace) -> Row:
    print(f"{name}, seed {seed} ...", flush=True)
    folder = options.out / re.sub(r"[^a-z0-9]+", "-", f"{name} {options.iterations} seed {seed}")
    keys = [*CASES[name], f"train.iterations={options.iterations}", f"train.evaluate_every={options.iterations}"]
    trained = train(RECIPE, folder, options.data_root, keys, "--seed", str(seed))
    arrays = runs.read_predictions(folder)
    accuracies = {
        f"{split}_accuracy_pct": list(accuracies_pct(arrays[f"{split}_logits"], arrays[f"{split}_labels"]))
        for split in ("val", "test")
    }
    what = {"case": name, "overrides": CASES[name], "iterations": options.iterations, "seed": seed}
    return {**what, "seconds": trained["seconds"], **accuracies}


def page(result: Mapping[str, Any]) -> str:
    """The table: means over the seeds, longest runs first, then by the mean of all exits on validation."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in result["rows"]:
        groups.setdefault((row["case"], row["iterations"]), []).append(row)
    lines = []
    for (name, iterations), rows in groups.items():
        val, test = (np.array([row[f"{split}_accuracy_pct"] for row in rows]) for split in ("val", "test"))
        seeds = ", ".join(str(row["seed"]) for row in rows)
        cells = [name, f"{iterations:,}", seeds, *(_mean(exit_pct) for exit_pct in test.T), f"{val.mean():.2f}"]
        lines.append((-iterations, -val.mean(), cells))
    exits = [*(f"sub-model {k}" for k in range(1, 4)), "main"]
    header = ["critics' loss", "steps", "seeds", *exits, "mean of all exits, validation"]
    machine = result["machine"]
    return (
        f"`{result['recipe']}` with other losses, at the same number of steps, on {machine['cpu']} "
        f"(`{result['command']}`). Test accuracy in percent, mean over the seeds, with the standard deviation where "
        "there are two or more. `distill` is from the next exit; `lr` and its schedule are those of the critics (the "
        "recipe: 1e-3, one cycle).\n\n"
        + table(header, [cells for *_, cells in sorted(lines, key=lambda line: line[:2])])
    )


def _mean(values: np.ndarray[Any, Any]) -> str:
    spread = f" ±{values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread}"


if __name__ == "__main__":
    main()
