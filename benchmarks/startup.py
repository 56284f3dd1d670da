"""The time that commands take to start, and that an export takes.

Every command is compared with ``python -c pass``, which is what any Python program takes; since the limits are in
seconds, those are given too. A progressive export is compared with torch.onnx.export of main alone.
"""

import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import networks
from benchmarks.case import Row
from benchmarks.timing import Timed, in_turn, ratio, repeated
from lcprune.exporters.progressive import stitch
from lcprune.exporters.stages import export_module, export_stages
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


def measure_commands(rounds: int = 9) -> list[Row]:
    """One row for each command."""
    timed: dict[str, Timed] = {"nothing": _command(NOTHING)}
    timed |= {name: _command(words) for name, (words, _) in COMMANDS.items()}
    seconds = in_turn(timed, rounds)
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


def measure_export(recipe: Recipe | None = None, rounds: int = 3) -> list[Row]:
    """One row: stages, critics and the stitching of all exits, over the export of main alone."""
    recipe = recipe or networks.load(EXPORTED, ["train.method=local_critic"])
    network = networks.make_network(recipe, torch.device("cpu")).eval()
    _, shape = networks.SHAPES[recipe.data.source]
    exits = list(range(len(network.critics)))
    submodel = network.submodel(len(network.groups))

    def progressive() -> Any:
        return stitch(export_stages(network, exits, shape), [0.5] * len(exits), "optional")

    timed = {
        "progressive": repeated(progressive),
        "main": repeated(lambda: export_module(submodel, shape, ("logits",))),
    }
    seconds = in_turn(timed, rounds)
    return [
        {
            "what": f"progressive export of {recipe.name}",
            "over_main": asdict(ratio(seconds["progressive"], seconds["main"])),
        }
    ]


def _command(words: Sequence[str]) -> Timed:
    def run() -> None:
        subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    return repeated(run)
