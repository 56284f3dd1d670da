"""Several processes against one: speed, memory, bytes sent, and slow links. About 7 minutes on two idle cores.

    python -m benchmarks.parallel [--cores 0 1] [--only PART ...] [--out FILE]

Every process has one thread and a core of its own. The trainings of a case take turns in the same two processes, and
the ratio of medians is what counts. With ``--only`` the other parts of the file stay as they are.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.networks import SEED
from benchmarks.parallel import jobs
from benchmarks.parallel.processes import together
from benchmarks.provenance import RESULTS, command_line, provenance, read, save
from benchmarks.throughput import Case

DELAY_S = 0.02
PAPER = Case("quarter width, the paper's critics", "vgg_cifar10", ("model.width=0.25",), rounds=5, burst=6)
POOLED = Case("quarter width, pooled critics", "vgg_cifar10_small", ("critics.batch_norm=false",), rounds=5, burst=5)
MEMORY = (
    Case("paper width, the paper's critics", "vgg_cifar10", (), 1, 1),
    Case("paper width, pooled critics", "vgg_cifar10", ("critics.head=pooled",), 1, 1),
    PAPER,
    POOLED,
)
SMALL_BATCH = ("data.batch_size=32",)
SLOW_LINKS = (PAPER, replace(POOLED, overrides=(*POOLED.overrides, *SMALL_BATCH), burst=15))
"""The paper's network, and one whose step is hardly longer than a message and its answer."""
PARTS: dict[str, Any] = {
    "speed": (jobs.speed, (PAPER, POOLED), 2),
    "slow links": (jobs.delayed, SLOW_LINKS, 2),
    "memory": (jobs.held_bytes, MEMORY, 4),
    "link": (jobs.link, (), 2),
}
"""The job of every process, its cases, and the number of processes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the parts and writes the result file after each."""
    parser = command_line("benchmarks.parallel", __doc__)
    parser.add_argument("--cores", type=int, nargs="+", default=[0, 1], help="one for each process; 4 share them")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS / "parallel.json")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="of every recipe, for a trial")
    parser.add_argument("--rounds", type=int, help="of every case, for a trial")
    parser.add_argument("--case", type=int, nargs="+", help="numbers of cases from 1, for a trial")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    for part in options.only:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="lcprune-parallel-") as folder:
            rows = _rows(part, options, Path(folder))
        about = provenance("benchmarks.parallel", SEED)
        save(options.out, {**read(options.out), **about, part: {"load": about["load"], "rows": rows}})
        print(f"{part}: {time.perf_counter() - started:.0f} s", flush=True)


def _rows(part: str, options: argparse.Namespace, folder: Path) -> list[Any]:
    job, cases, processes = PARTS[part]
    if part == "link":
        return list(together(job, None, processes, options.cores, folder))
    rows = []
    for number, case in enumerate(cases, start=1):
        if options.case and number not in options.case:
            continue
        overrides = (*case.overrides, *options.overrides)
        case = replace(case, overrides=overrides, rounds=options.rounds or case.rounds)
        about = (case, DELAY_S, folder) if part == "slow links" else case
        rows.append(together(job, about, processes, options.cores, folder))
    return rows


if __name__ == "__main__":
    main()
