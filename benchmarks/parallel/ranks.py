"""Processes as torchrun starts them, each with one thread on a core of its own, that do one job together."""

import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lcprune.training.parallel.mesh import ProcessMesh, connected

Job = Callable[[ProcessMesh, Any], Any]
"""What every process does; what the first one returns, as JSON has it, is the result."""
CPU = torch.device("cpu")
TIMEOUT_S = 600.0


def together(job: Job, about: Any, ranks: int, cores: Sequence[int], folder: Path) -> Any:
    """Runs a job in `ranks` processes and returns what the first one found.

    Args:
        job: A function of a module, so that a new process can import it.
        about: Goes to the job.
        ranks: Processes.
        cores: Where they run, in turn.
        folder: For the result and for what the processes share; it is there.

    Raises:
        SystemExit: If one of them fails.
    """
    answer = folder / f"{job.__name__}.json"
    answer.unlink(missing_ok=True)
    settings = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(ranks)}
    started = [
        multiprocessing.get_context("spawn").Process(
            target=_rank, args=(job, about, {**settings, "RANK": str(rank)}, cores[rank % len(cores)], answer)
        )
        for rank in range(ranks)
    ]
    for process in started:
        process.start()
    while any(process.is_alive() for process in started):
        if any(process.exitcode for process in started):
            for process in started:
                process.terminate()
        time.sleep(0.1)
    if any(process.exitcode for process in started):
        codes = ", ".join(str(process.exitcode) for process in started)
        raise SystemExit(f"{job.__name__} failed in one of {ranks} processes; exit codes by rank: {codes}")
    return json.loads(answer.read_text(encoding="utf-8"))


def replicas_of(mesh: ProcessMesh) -> ProcessMesh:
    """The same processes, with batches divided instead of layers."""
    return replace(mesh, stages=1, replicas=mesh.world_size, replica_group=dist.new_group())


def _rank(job: Job, about: Any, settings: dict[str, str], core: int, answer: Path) -> None:
    os.environ |= {**settings, "GLOO_SOCKET_IFNAME": "lo"}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    with connected("layers", int(settings["WORLD_SIZE"]), CPU, TIMEOUT_S) as mesh:
        result = job(mesh, about)
        dist.barrier()
        if mesh.rank == 0:
            answer.write_text(json.dumps(result), encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port
