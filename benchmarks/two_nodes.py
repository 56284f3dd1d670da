"""Trains on two nodes: two network namespaces of this machine, joined by nothing but a virtual cable.

    python -m benchmarks.two_nodes [--scratch FOLDER]

needs root on Linux, and `ip`. Each node runs a torchrun of its own with two processes; they meet over the cable and
share the run folder. Layers must end with the weights of one process, batches close to them; a process killed on one
node must end both, and be named; with `--max-restarts` both must go on by themselves to the same weights. Writes
benchmarks/results/two_nodes.json.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.chaos import ranks
from benchmarks.provenance import provenance
from lcprune import runs

RESULT = Path(__file__).parent / "results" / "two_nodes.json"
NODES = ("lcprune-a", "lcprune-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 29400
ENDS_S = 180.0


@dataclass(frozen=True)
class Ended:
    """Both nodes, when their torchruns have ended."""

    exit_codes: tuple[int | None, ...]
    messages: tuple[str, ...]
    seconds: float


def main() -> int:
    """Tries everything; exit code 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_nodes")
    parser.add_argument("--scratch", type=Path, help="an empty folder; left out, one that is removed afterwards")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _two_nodes():
        scratch = (given.scratch or Path(folder)).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / "ranks.yaml").write_text(ranks.RECIPE, encoding="utf-8")
        rows = list(_rows(scratch))
    for row in rows:
        print(json.dumps(row), flush=True)
    RESULT.write_text(json.dumps({**provenance("benchmarks.two_nodes", 0), "rows": rows}, indent=2) + "\n")
    return int(not all(row["is_right"] for row in rows))


def _rows(scratch: Path) -> Iterator[dict[str, Any]]:
    alone = scratch / "alone"
    command = [sys.executable, "-m", "lcprune", "train", "ranks.yaml", "--out", str(alone), "--quiet"]
    subprocess.run(command, cwd=scratch, env=_environment(0), check=True)
    for name, options in (("layers", ["--parallel", "layers"]), ("data", ["--parallel", "data"])):
        run = scratch / name
        ended = _ended(_start(scratch, run, options))
        gap = _gap(run, alone) if ended.exit_codes == (0, 0) else None
        is_right = gap is not None and (gap == 0 if name == "layers" else gap < 0.05)
        yield {"what": name, **vars(ended), "largest_gap": gap, "is_right": is_right}
    for restarts in (0, 1):
        run = scratch / f"killed-{restarts}"
        started = _start(scratch, run, ["--parallel", "layers"], ["--max-restarts", str(restarts)])
        if not ranks.wait_for_step(run, ranks.STEPS // 2, started[0]):
            yield {"what": "killed", "messages": [started[0].said[-500:]], "is_right": False}
            return
        ranks.send(signal.SIGKILL, started[1], 3)
        ended = _ended(started)
        named = len(ended.messages) == 1 and "rank 3 (layer group 4) is gone" in ended.messages[0]
        went_on = ended.exit_codes == (0, 0) and _gap(run, alone) == 0
        what = "a process of the second node killed" + (", restarted by torchrun" if restarts else "")
        yield {"what": what, **vars(ended), "is_right": named and (went_on or not restarts and all(ended.exit_codes))}


def _start(scratch: Path, run: Path, options: Sequence[str], launch: Sequence[str] = ()) -> list[ranks.Started]:
    meeting = ["--nnodes=2", "--nproc-per-node=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={ADDRESSES[0]}:{PORT}"]
    started = []
    for number, (node, address) in enumerate(zip(NODES, ADDRESSES, strict=True)):
        line = ["ip", "netns", "exec", node, sys.executable, "-m", "torch.distributed.run", *meeting, *launch]
        # Both have the name of the one machine, by which torchrun would find out which of them is the host.
        line += [
            f"--rdzv-conf=is_host={number == 0}",
            f"--local-addr={address}",
            "-m",
            "lcprune",
            "train",
            "ranks.yaml",
            "--out",
            str(run),
            *options,
        ]
        output = scratch / f"{run.name}-{number}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*line, "--timeout", "30"],
                cwd=scratch,
                env=_environment(number),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        started.append(ranks.Started(process, output))
    return started


def _ended(started: Sequence[ranks.Started]) -> Ended:
    at = time.perf_counter()
    codes = tuple(each.ends(ENDS_S) for each in started)
    messages = tuple(line for each in started for line in ranks.messages(each.said))
    return Ended(codes, messages, round(time.perf_counter() - at, 1))


def _environment(node: int) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "GLOO_SOCKET_IFNAME": f"cable-{node}",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }


@contextmanager
def _two_nodes() -> Iterator[None]:
    """Inside, both namespaces are there, with an address each."""
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
