"""Several processes against one: speed, memory, bytes sent, and slow links. About 7 minutes on two idle cores.

    python -m benchmarks.parallel [--cores 0 1] [--only PART ...] [--out FILE]

Every process has one thread and a core of its own. Within a case the sides take turns in the same two processes, and
the ratio of medians is what counts. With ``--only`` the other parts of the file stay as they are.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.networks import SEED
from benchmarks.parallel import costs, jobs
from benchmarks.parallel.cases import MEMORY, PAPER, POOLED, SPEED, Case
from benchmarks.parallel.ranks import together
from benchmarks.provenance import provenance

RESULT = Path(__file__).parents[1] / "results" / "parallel.json"
DELAY_S = 0.02
SMALL_BATCH = ("data.batch_size=32",)
FAR = (PAPER, replace(POOLED, overrides=(*POOLED.overrides, *SMALL_BATCH), burst=15))
"""Cases with slow links: the one that is wanted, and a step that is hardly longer than the way there and back."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the parts and writes the result file after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cores", type=int, nargs="+", default=[0, 1], help="one for each process; 4 share them")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="of every recipe, for a trial")
    parser.add_argument("--rounds", type=int, help="of every case, for a trial")
    parser.add_argument("--case", type=int, nargs="+", help="numbers of cases from 1, for a trial")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    result = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    for part in options.only:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="lcprune-parallel-") as folder:
            run = Run(options.cores, Path(folder), tuple(options.overrides), options.rounds, options.case)
            found = PARTS[part](run)
        about = provenance("benchmarks.parallel", SEED)
        result = {**result, **about, part: {"load": os.getloadavg()[0], "rows": found}}
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"{part}: {time.perf_counter() - started:.0f} s", flush=True)
    print(options.out)


class Run:
    """How the cases are run."""

    def __init__(
        self,
        cores: Sequence[int],
        folder: Path,
        overrides: tuple[str, ...],
        rounds: int | None,
        numbers: Sequence[int] | None,
    ) -> None:
        self.folder = folder
        self._cores = cores
        self._overrides = overrides
        self._rounds = rounds
        self._numbers = numbers

    def two(self, job: Callable[..., Any], about: object) -> Any:
        """What two processes find."""
        return together(job, about, 2, self._cores, self.folder)

    def four(self, job: Callable[..., Any], about: object) -> Any:
        """What four processes find."""
        return together(job, about, 4, self._cores, self.folder)

    def of(self, cases: Sequence[Case]) -> list[Case]:
        """The cases as they are measured this time."""
        chosen = [
            case for number, case in enumerate(cases, start=1) if self._numbers is None or number in self._numbers
        ]
        return [
            replace(case, overrides=(*case.overrides, *self._overrides), rounds=self._rounds or case.rounds)
            for case in chosen
        ]


def _speed(run: Run) -> list[Any]:
    return [run.two(jobs.speed, case) for case in run.of(SPEED)]


def _far(run: Run) -> list[Any]:
    return [run.two(jobs.delayed, jobs.Distance(case, DELAY_S, run.folder)) for case in run.of(FAR)]


def _memory(run: Run) -> list[Any]:
    return [run.four(jobs.held_bytes, case) for case in run.of(MEMORY)]


def _link(run: Run) -> list[Any]:
    rows: list[Any] = run.two(costs.link, None)
    return rows


PARTS: dict[str, Callable[[Run], list[Any]]] = {
    "speed": _speed,
    "slow links": _far,
    "memory": _memory,
    "link": _link,
}

if __name__ == "__main__":
    main()
