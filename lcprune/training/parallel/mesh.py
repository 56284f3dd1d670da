"""The processes that train one network together, as torchrun started them.

They form a mesh of stages x replicas: a stage holds one or more consecutive layer groups, its replicas share every
batch. Data parallel is one stage, layer parallel one replica. Rank ``stage * replicas + replica``: the ranks that
exchange gradients are consecutive, and so on one machine if possible.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from lcprune.errors import PeerError, SetupError
from lcprune.specs import Parallel
from lcprune.training.parallel.heartbeat import Heartbeat


@dataclass(frozen=True)
class ProcessMesh:
    """This process among those that train together."""

    rank: int
    stages: int
    replicas: int
    device: torch.device
    replica_group: ProcessGroup
    """The processes that hold the same layers."""
    heartbeat: Heartbeat
    """Detects dead ranks."""
    timeout: timedelta
    """Of every wait for another process."""

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.stages * self.replicas

    @property
    def stage(self) -> int:
        """Index of this process's layer groups, from 0."""
        return self.rank // self.replicas


def is_launched() -> bool:
    """Whether torchrun, or another launcher like it, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def connected(parallel: Parallel, groups: int, device: torch.device, timeout_s: float) -> Iterator[ProcessMesh]:
    """Connects this process with the others; an error that ends all is reported by one of them.

    Args:
        parallel: What is divided: batches, layers, or both.
        groups: Layer groups of the network.
        device: Kind of device; each process on a machine uses another CUDA device.
        timeout_s: Of every wait for another process.

    Raises:
        SetupError: If there are too many processes.
        PeerError: If the processes cannot connect, or a rank is dead.
    """
    world_size, timeout = int(os.environ["WORLD_SIZE"]), timedelta(seconds=timeout_s)
    stages = _stages(parallel, world_size, groups)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, _ = next(rendezvous("env://", timeout=timeout))
        # Torchrun keeps its store when it restarts processes, with the addresses of the previous ones.
        store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
        ranks = torch.arange(world_size).view(stages, -1)
        replica_group, _ = dist.new_subgroups_by_enumeration(ranks.tolist(), timeout=timeout)
    except RuntimeError as error:
        raise PeerError(
            f"the {world_size} processes did not find each other: {str(error).splitlines()[0]}",
            "check the address given to torchrun, and the network between the machines",
        ) from None
    heartbeat = Heartbeat(store, rank, world_size)
    try:
        with heartbeat.watched():
            replicas = world_size // stages
            yield ProcessMesh(rank, stages, replicas, device, cast(ProcessGroup, replica_group), heartbeat, timeout)
    finally:
        heartbeat.stop()
        dist.destroy_process_group()


def _stages(parallel: Parallel, world_size: int, groups: int) -> int:
    """Number of stages."""
    if parallel == "data":
        return 1
    if parallel == "layers":
        if world_size > groups:
            raise SetupError(
                f"{world_size} processes cannot share {groups} layer groups",
                f"start {groups} or fewer, or divide batches as well: --parallel both",
            )
        return world_size
    stages = max(n for n in range(1, min(groups, max(1, world_size // 2)) + 1) if world_size % n == 0)
    if stages == 1:
        raise SetupError(
            f"{world_size} processes are no grid of layers and replicas for {groups} layer groups",
            "start 4, 6 or 8, or divide only one of both: --parallel data, --parallel layers",
        )
    return stages
