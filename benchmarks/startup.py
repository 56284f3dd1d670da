"""How soon commands answer, and how long an export takes.

    python -m benchmarks.startup commands

Every command is held against ``python -c pass``, which is what any Python program pays; since the limits are in
seconds, those are given too. A progressive export is held against torch.onnx.export of main alone.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import networks
from benchmarks.case import Row, run_case
from benchmarks.timing import Side, in_turn, ratio
from lcprune.export.progressive import stitch
from lcprune.export.segments import export_module, export_stages
from lcprune.recipe import Recipe

EXPORTED = "vgg_cifar10_small"
SCRIPT = Path(sys.executable).with_name("lcprune")
LCPRUNE = (str(SCRIPT),) if SCRIPT.exists() else (sys.executable, "-m", "lcprune")
NOTHING = (sys.executable, "-c", "pass")
COMMANDS: dict[str, tuple[tuple[str, ...], float | None]] = {
    "import lcprune": ((sys.executable, "-c", "import lcprune"), 0.1),
    "lcprune --help": ((*LCPRUNE, "--help"), 0.3),
    "lcprune train --help": ((*LCPRUNE, "train", "--help"), 0.3),
    "lcprune validate vgg_cifar10": ((*LCPRUNE, "validate", "vgg_cifar10"), None),
}
"""Each with the most seconds that it may take; starting Python counts."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures one case."""
    cases: dict[str, Callable[[], list[Row]]] = {
        "commands": measure_commands,
        "export": lambda: measure_export(networks.load(EXPORTED, ["train.method=local_critic"])),
    }
    run_case("startup", __doc__, cases, arguments)


def measure_commands(rounds: int = 9) -> list[Row]:
    """One row for each command."""
    sides: dict[str, Side] = {"nothing": _command(NOTHING)}
    sides |= {name: _command(words) for name, (words, _) in COMMANDS.items()}
    seconds = in_turn(sides, rounds)
    rows = []
    for name, (_, limit_s) in COMMANDS.items():
        median_s = statistics.median(seconds[name])
        rows.append(
            {
                "what": name,
                "over_python": asdict(ratio(seconds[name], seconds["nothing"])),
                "median_s": median_s,
                "limit_s": limit_s,
                "met": None if limit_s is None else median_s <= limit_s,
            }
        )
    return rows


def measure_export(recipe: Recipe, rounds: int = 3) -> list[Row]:
    """One row: stages, critics and the stitching of all exits, over the export of main alone."""
    network = networks.make_network(recipe, torch.device("cpu")).eval()
    _, shape = networks.SHAPES[recipe.data.source]
    exits = list(range(len(network.critics)))
    submodel = network.submodel(len(network.groups))

    def progressive() -> Any:
        return stitch(export_stages(network, exits, shape), [0.5] * len(exits), "optional")

    sides = {"progressive": _timed(progressive), "main": _timed(lambda: export_module(submodel, shape, ("logits",)))}
    seconds = in_turn(sides, rounds)
    return [
        {
            "what": f"progressive export of {recipe.name}",
            "over_main": asdict(ratio(seconds["progressive"], seconds["main"])),
        }
    ]


def _command(words: Sequence[str]) -> Side:
    def run() -> None:
        subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    return _timed(run)


def _timed(work: Callable[[], Any]) -> Side:
    def side(times: int) -> float:
        begin = time.perf_counter()
        for _ in range(times):
            work()
        return time.perf_counter() - begin

    return side


if __name__ == "__main__":
    main()
