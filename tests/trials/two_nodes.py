"""Trains on two nodes: two network namespaces of this machine that a virtual cable joins.

    python -m tests.trials.two_nodes

needs root on Linux, and `ip`. Each node runs a torchrun of its own with two processes; they share the run folder.
Layer parallel training must end with the weights of one process, data parallel close to them; a process killed on one
node must end both, and be named; with `--max-restarts` both must go on by themselves to the same weights.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from lcprune import runs
from tests.trials.torchrun import RECIPE, STEPS, Started, environment, torchrun

NODES = ("lcprune-a", "lcprune-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 29400
ENDS_S = 180.0


def main() -> int:
    """Runs everything; prints a line of JSON for each case; exit code 1 if one failed."""
    passed = True
    with tempfile.TemporaryDirectory() as folder, _two_nodes():
        for row in _cases(Path(folder)):
            print(json.dumps(row), flush=True)
            passed = passed and row["passed"]
    return int(not passed)


def _cases(scratch: Path) -> Iterator[dict[str, Any]]:
    alone = scratch / "alone"
    (scratch / "ranks.yaml").write_text(RECIPE, encoding="utf-8")
    command = [sys.executable, "-m", "lcprune", "train", "ranks.yaml", "--out", str(alone), "--quiet"]
    subprocess.run(command, cwd=scratch, env=environment(), check=True)
    for parallel, largest_gap in (("layers", 0.0), ("data", 0.05)):
        run = scratch / parallel
        row = _wait(_start(scratch, run, parallel))
        gap = _gap(run, alone) if row["exit_codes"] == [0, 0] else None
        yield {"case": parallel, **row, "largest_gap": gap, "passed": gap is not None and gap <= largest_gap}
    for restarts in (0, 1):
        run = scratch / f"killed-{restarts}"
        nodes = _start(scratch, run, "layers", "--max-restarts", str(restarts))
        if nodes[0].reaches(run, STEPS // 2):
            nodes[1].send(signal.SIGKILL, 3)
        row = _wait(nodes)
        named = len(row["errors"]) == 1 and "rank 3 (layer group 4) is dead" in row["errors"][0]
        ended = _gap(run, alone) == 0 if row["exit_codes"] == [0, 0] else not restarts and all(row["exit_codes"])
        yield {"case": f"a process of the second node killed, {restarts} restarts", **row, "passed": named and ended}


def _start(scratch: Path, run: Path, parallel: str, *options: str) -> list[Started]:
    command = ("train", "ranks.yaml", "--out", str(run), "--parallel", parallel, "--timeout", "30")
    started = []
    for number, (node, address) in enumerate(zip(NODES, ADDRESSES, strict=True)):
        # Both nodes have the name of the one machine, so that torchrun cannot find out which of them is the host.
        host = [f"--rdzv-conf=is_host={number == 0}", f"--local-addr={address}"]
        rendezvous = ["--nnodes=2", f"--rdzv-endpoint={ADDRESSES[0]}:{PORT}", *host, *options]
        prefix, output = ["ip", "netns", "exec", node], f"{run.name}-{number}.txt"
        place: dict[str, Any] = {"prefix": prefix, "interface": f"cable-{number}", "output": output}
        started.append(torchrun(2, *command, cwd=scratch, options=rendezvous, **place))
    return started


def _wait(nodes: Sequence[Started]) -> dict[str, Any]:
    started = time.perf_counter()
    codes = [node.wait(ENDS_S) for node in nodes]
    errors = [line for node in nodes for line in node.errors]
    return {"exit_codes": codes, "errors": errors, "seconds": round(time.perf_counter() - started, 1)}


@contextmanager
def _two_nodes() -> Iterator[None]:
    """Both namespaces, with an address each."""
    _ip("link", "add", "cable-0", "type", "veth", "peer", "name", "cable-1")
    try:
        for number, (node, address) in enumerate(zip(NODES, ADDRESSES, strict=True)):
            cable = f"cable-{number}"
            _ip("netns", "add", node)
            _ip("link", "set", cable, "netns", node)
            _ip("-n", node, "address", "add", f"{address}/24", "dev", cable)
            for device in (cable, "lo"):
                _ip("-n", node, "link", "set", device, "up")
        yield
    finally:
        for node in NODES:
            _ip("netns", "delete", node)  # and the cable with it


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _gap(run: Path, other: Path) -> float:
    """The largest difference between their weights."""
    left, right = load_file(run / runs.WEIGHTS), load_file(other / runs.WEIGHTS)
    return max((left[name].double() - right[name].double()).abs().max().item() for name in left)


if __name__ == "__main__":
    sys.exit(main())
