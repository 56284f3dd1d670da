"""The whole suite on a CPU: each case in a process of its own, all figures in one file.

    python -m benchmarks.bench [--only PART ...] [--out FOLDER]

Writes ``benchmarks/results/<machine>.json``. With ``--only`` the other parts of the file stay as they are. A case that
fails is named at the end; the others are kept. What one case leaves behind in the allocator has changed the result of
the next one before, so that each has its process.

Every command is compared with ``python -c pass``, which is what any Python program takes; since the limits are in
seconds, those are given too. A progressive export is compared with torch.onnx.export of main alone.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import memory, networks, throughput
from benchmarks.networks import SEED
from benchmarks.provenance import RESULTS, Row, command_line, save_part, slug
from benchmarks.timing import Timed, in_turn, ratio, repeated
from lcprune.exporters.progressive import stitch
from lcprune.exporters.stages import export_module, export_stages
from lcprune.paper.provenance import cpu_name
from lcprune.recipe import Recipe

Cases = Mapping[str, Callable[[], list[Row]]]
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
    """Runs the parts and writes their result; or one case in this process, and prints its rows."""
    parts = all_parts()
    parser = command_line("benchmarks.bench", __doc__)
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts), metavar="PART", help=", ".join(parts))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--case", nargs=2, metavar=("PART", "NAME"), help="print the rows of one case as JSON")
    options = parser.parse_args(arguments)
    if options.case:
        part, name = options.case
        print(json.dumps(parts[part][name]()))
        return
    path = options.out / f"{slug(f'{cpu_name()} {os.cpu_count()} cores')}.json"
    failed = run({part: list(parts[part]) for part in options.only}, path)
    if failed:
        raise SystemExit("failed: " + "; ".join(failed))


def all_parts() -> dict[str, Cases]:
    """The cases of every part, by name."""
    cpu = torch.device("cpu")
    return {
        "speed": {
            f"{case.network}, {method}": partial(throughput.measure_overhead, case, method, cpu)
            for case in throughput.OVERHEAD_CASES
            for method in throughput.METHODS
        },
        "methods": {case.network: partial(throughput.measure_methods, case, cpu) for case in throughput.METHOD_CASES},
        **memory.parts(cpu),
        "analysis": {"ImageNet's size": _analysis},
        "start": {"commands": measure_commands},
        "export": {"progressive": measure_export},
    }


def run(parts: Mapping[str, Sequence[str]], path: Path) -> list[str]:
    """Runs the named cases and writes `path` after each part; returns the cases that failed."""
    failed: list[str] = []
    for part, names in parts.items():
        found: list[Row] = []
        for name in names:
            start = time.perf_counter()
            print(f"{part}: {name} ...", end=" ", flush=True)
            rows = _rows(part, name)
            print(f"{time.perf_counter() - start:.0f} s" if rows else "FAILED", flush=True)
            found += rows
            failed += [] if rows else [f"{part}: {name}"]
        if found:
            save_part(path, part, "benchmarks.bench", SEED, found)
    return failed


def _rows(part: str, name: str) -> list[Row]:
    """What a case prints; nothing if it fails, and then its errors are on stderr."""
    words = [sys.executable, "-m", "benchmarks.bench", "--case", part, name]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    return [] if done.returncode else list(json.loads(done.stdout))


def _analysis() -> list[Row]:
    """In a process that has imported nothing else, for its peak memory."""
    return [json.loads(subprocess.check_output([sys.executable, "-m", "benchmarks.analysis_scale"], text=True))]


def measure_commands(rounds: int = 9) -> list[Row]:
    """One row for each command."""
    timed: dict[str, Timed] = {"nothing": _command(NOTHING)}
    timed |= {name: _command(words) for name, (words, _) in COMMANDS.items()}
    seconds = in_turn(timed, rounds)
    rows = []
    for name, (_, limit_s) in COMMANDS.items():
        median_s = statistics.median(seconds[name])
        row = {"what": name, "over_python": ratio(seconds[name], seconds["nothing"]), "median_s": median_s}
        rows.append({**row, "limit_s": limit_s, "met": None if limit_s is None else median_s <= limit_s})
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
    over_main = ratio(seconds["progressive"], seconds["main"])
    return [{"what": f"progressive export of {recipe.name}", "over_main": over_main}]


def _command(words: Sequence[str]) -> Timed:
    return repeated(partial(subprocess.run, words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True))


if __name__ == "__main__":
    main()
