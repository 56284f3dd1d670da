"""Our way: one training that gives exits in depth, at several image sizes, or both, by the `lcprune` command."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import commands
from benchmarks.commands import children_cpu_s, lcprune, once
from benchmarks.provenance import Row
from benchmarks.pruning_comparison import frontier
from lcprune.exits import exit_label

CANNOT_BE_MET = 3
"""Exit code of a command that finds nothing within the budget."""
BUDGETS = ("0.5", "1", "2", "3")
"""Of progressive models, in points."""
SHARED = "3"
"""The budget at which weights are also shared by the sizes."""
RECIPE = Path(__file__).parent / "phone.yaml"
TRUNK = "benchmarks.phone.network"
VARIANTS = {
    "both": (),
    "sizes": ("critics.after=[]",),
    "depth": ("data.image_size=128",),
}
"""Exits in depth and at several sizes, or one of the two: keys of the recipe."""


def trained(name: str, table: Path, network: str, seed: int, run: Path) -> Row:
    """Trains a variant on the images of a fold, once, or goes on with a run that was stopped.

    The seconds are those of the command, with start, evaluation and the writing of files; in CPU time where it ran
    without a stop.
    """

    def make() -> Row:
        whole = not run.exists()
        keys = (f"data.manifest={table.name}", f"train.seed={seed}", f"model.trunk={TRUNK}:{network}", *VARIANTS[name])
        before = children_cpu_s()
        row = commands.train(str(RECIPE), run, table.parent, keys)
        return {**row, "variant": name, "cpu_s": children_cpu_s() - before if whole else None}

    return once(run.with_suffix(".training.json"), make)


def exported(name: str, run: Path) -> dict[str, Row]:
    """The files of a run, each written once, by name: sub-models and progressive models in int8, and main in float32.

    Sub-models are those that no cheaper one reaches on the validation images, and main at the largest size.
    """
    candidates = _selected(run)["candidates"]
    best = set(frontier(candidates, "macs", "val_accuracy_pct"))
    main = max(candidates, key=lambda each: each["macs"])
    chosen = [each for each in candidates if (each["macs"], each["val_accuracy_pct"]) in best or each is main]
    words = {f"{main['name']}, fp32": ("--exit", exit_label(main["name"]))}
    for budget in BUDGETS:
        words[f"progressive {budget}, int8"] = ("--progressive", "--max-drop", budget, "--precision", "int8")
    if name != "depth":
        words[f"progressive {SHARED} of shared weights, int8"] = (
            *words[f"progressive {SHARED}, int8"],
            "--layout",
            "shared",
        )
    words |= {f"{each['name']}, int8": ("--exit", exit_label(each["name"]), "--precision", "int8") for each in chosen}
    rows = {f"{name}: {file}": _export(run, file, options) for file, options in words.items()}
    return {file: row for file, row in rows.items() if "path" in row}


def main_val_accuracy_pct(run: Path) -> float:
    """Of float32's main at the largest size: what a budget is counted from."""
    return float(_selected(run)["reference"]["val_accuracy_pct"])


def _selected(run: Path) -> Row:
    return once(run.with_suffix(".select.json"), lambda: lcprune("select", str(run), "--max-drop", "2"))


def _export(run: Path, name: str, options: Sequence[str]) -> Row:
    path = run / "export" / f"{name.replace(', ', '-').replace(' ', '-')}.onnx"
    words = ("export", str(run), "--format", "onnx", *options, "--output", str(path))
    return once(path.with_suffix(".json"), lambda: lcprune(*words, allowed=(CANNOT_BE_MET,)))
